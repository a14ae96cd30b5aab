"""Xen's paravirtual interface for 32-bit guests, as of Xen 3.0.4.

Offsets and sizes are bytes. Each block names the file of the Xen tree that it comes from; where 3.0.0 or later releases
differ, the comment says how. Enumerators carry the names of the interface without their C prefix.
"""

from __future__ import annotations

import struct
from enum import IntEnum

# --- Hypercalls (xen/include/public/xen.h) ----------------------------------------------------------------------------

HYPERCALL_VECTOR = 0x82
HYPERCALL_INSTRUCTION = b"\xCD\x82"
NR_HYPERCALLS = 64
"""Numbers from here on are -ENOSYS (3.0.0 masked the number with 31 instead; xen/arch/x86/x86_32/entry.S)."""
MAX_HYPERCALL_ARGUMENTS = 5
"""In EBX, ECX, EDX, ESI, EDI; the result is in EAX."""


class Hypercall(IntEnum):
    """Number in EAX. Numbers below 64 that are not here have no handler on x86_32."""

    set_trap_table = 0
    mmu_update = 1
    set_gdt = 2
    stack_switch = 3
    set_callbacks = 4
    fpu_taskswitch = 5
    sched_op_compat = 6  # sched_op in 3.0.0: the argument is a value, not a pointer
    platform_op = 7  # dom0_op until 3.0.2
    set_debugreg = 8
    get_debugreg = 9
    update_descriptor = 10
    memory_op = 12
    multicall = 13
    update_va_mapping = 14
    set_timer_op = 15
    event_channel_op_compat = 16  # command and argument in one structure
    xen_version = 17
    console_io = 18
    physdev_op_compat = 19  # command and argument in one structure
    grant_table_op = 20
    vm_assist = 21
    update_va_mapping_otherdomain = 22
    iret = 23  # switch_vm86 in 3.0.0
    vcpu_op = 24
    set_segment_base = 25  # x86_64 only
    mmuext_op = 26
    acm_op = 27
    nmi_op = 28
    sched_op = 29
    callback_op = 30
    xenoprof_op = 31
    event_channel_op = 32
    physdev_op = 33
    hvm_op = 34
    sysctl = 35
    domctl = 36
    kexec_op = 37


# The hypercall page (xen/arch/x86/x86_32/traps.c, hypercall_page_initialise)
HYPERCALL_STUB_SIZE = 32
HYPERCALL_STUB_HEAD, HYPERCALL_STUB_TAIL = b"\xB8", b"\xCD\x82\xC3"
"""mov eax, imm32; the number, 4 bytes; int 0x82; ret."""
HYPERCALL_IRET_STUB = b"\x50\xB8\x17\x00\x00\x00\xCD\x82"
"""push eax; mov eax, 23; int 0x82. Entered by a jump: it never comes back."""


class Errno(IntEnum):
    """Errors; a hypercall returns the negative (xen/include/xen/errno.h)."""

    EPERM = 1
    ENOENT = 2
    ESRCH = 3
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EBUSY = 16
    EEXIST = 17
    EINVAL = 22
    ENOSPC = 28
    ENOSYS = 38


# --- Selectors and address space (public/arch-x86_32.h, asm-x86/config.h, arch/x86/boot/x86_32.S; not PAE) ------------

HYPERVISOR_CS, HYPERVISOR_DS = 0xE008, 0xE010
FLAT_RING1_CS, FLAT_RING1_DS = 0xE019, 0xE021
FLAT_RING3_CS, FLAT_RING3_DS = 0xE02B, 0xE033
FLAT_RING1_SS, FLAT_RING3_SS = FLAT_RING1_DS, FLAT_RING3_DS
TSS_SELECTOR, LDT_SELECTOR = 0xE040, 0xE048
"""Of CPU 0; each further CPU has its own, 16 above."""

FLAT_DESCRIPTORS: tuple[tuple[int, int], ...] = (
    (HYPERVISOR_CS, 0x00CF9A000000FFFF),
    (HYPERVISOR_DS, 0x00CF92000000FFFF),
    (FLAT_RING1_CS, 0x00CFBA000000C3FF),
    (FLAT_RING1_DS, 0x00CFB2000000C3FF),
    (FLAT_RING3_CS, 0x00CFFA000000C3FF),
    (FLAT_RING3_DS, 0x00CFF2000000C3FF),
)
"""Selector and descriptor; those of rings 1 and 3 end below GUEST_SEGMENT_MAX."""

FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_ENTRY = 7168
"""Entries and pages of the GDT below these are the guest's, the page at them is Xen's."""
MAX_LDT_ENTRIES = 8192

HYPERVISOR_VIRT_START = 0xFC000000
MACH2PHYS_VIRT_START = 0xFC000000
MACH2PHYS_VIRT_END = 0xFC400000
GUEST_SEGMENT_MAX = MACH2PHYS_VIRT_END
"""Where the guest's flat segments end: the last thing it can read is the machine-to-physical table."""
PERDOMAIN_VIRT_START = 0xFE800000
"""From the top: 4 MiB I/O remapping, 12 MiB direct map, 8 MiB per-domain mappings (their upper half: map cache)."""
GDT_VIRT_START = PERDOMAIN_VIRT_START
"""Of vCPU 0: what its GDTR holds."""
LDT_VIRT_START = GDT_VIRT_START + 0x10000

# --- Domains (public/xen.h) -------------------------------------------------------------------------------------------

DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF, DOMID_IO, DOMID_XEN = 0x7FF0, 0x7FF1, 0x7FF2
MAX_VIRT_CPUS = 32  # public/arch-x86_32.h


# --- Traps, callbacks, IRET (public/arch-x86_32.h, public/callback.h, arch/x86/x86_32/traps.c) ------------------------

TRAP_INFO = struct.Struct("<BBHI")
"""vector, flags, cs, address; a list ends at address 0."""
TRAP_INFO_VECTOR, TRAP_INFO_FLAGS, TRAP_INFO_CS, TRAP_INFO_ADDRESS = 0, 1, 2, 4
TRAP_INFO_DPL = 3
"""Bits of `flags`: the least privileged ring that may reach the vector by INT."""
TRAP_INFO_IF = 4
"""Bit of `flags`: event delivery is masked on entry."""
NR_TRAP_VECTORS = 256

SAVED_UPCALL_MASK_SHIFT = 16
"""Where the CS slot of a bounce frame keeps the upcall mask of before."""


class CallbackOp(IntEnum):
    """callback_op: command in EBX, pointer in ECX."""

    register = 0
    unregister = 1


class CallbackType(IntEnum):
    """`type` of CALLBACK_REGISTER. Of these 3.0.4 knows 0 to 4 (3 was the SYSENTER entry); 5 and 7 are later."""

    event = 0
    failsafe = 1
    syscall = 2  # x86_64 only
    sysenter_deprecated = 3
    nmi = 4
    sysenter = 5
    syscall32 = 7


CALLBACKF_MASK_EVENTS = 1
CALLBACK_REGISTER = struct.Struct("<HHII")
"""type, flags, cs, eip. In 3.0.3 type is one 32-bit word, which reads the same when flags are 0."""
CALLBACK_UNREGISTER = struct.Struct("<HH")


class NmiOp(IntEnum):
    """nmi_op: command in EBX (public/nmi.h)."""

    register_callback = 0
    unregister_callback = 1


# Ring 1 pops the first four words, ring 3 also ESP and SS, a VM86 frame also ES DS FS GS.
IRET_EAX, IRET_EIP, IRET_CS, IRET_EFLAGS, IRET_ESP, IRET_SS = 0, 4, 8, 12, 16, 20
IRET_ES, IRET_DS, IRET_FS, IRET_GS = 24, 28, 32, 36
IRET_FRAME_SIZE = 40

EMULATE_PREFIX = b"\x0F\x0Bxen"
"""UD2 and "xen": before CPUID it asks for the emulated one (public/arch-x86_32.h, XEN_EMULATE_PREFIX)."""


# --- MMU (public/xen.h) -----------------------------------------------------------------------------------------------

MMU_UPDATE = struct.Struct("<QQ")
"""ptr, val; the two low bits of ptr are the command."""
MMU_COMMAND_MASK = 3
MMU_NORMAL_PT_UPDATE, MMU_MACHPHYS_UPDATE = 0, 1


class MmuExt(IntEnum):
    """`cmd` of MMUEXT_OP. 14 was REASSIGN_PAGE in 3.0.0."""

    pin_l1_table = 0
    pin_l2_table = 1
    pin_l3_table = 2
    pin_l4_table = 3
    unpin_table = 4
    new_baseptr = 5
    tlb_flush_local = 6
    invlpg_local = 7
    tlb_flush_multi = 8
    invlpg_multi = 9
    tlb_flush_all = 10
    invlpg_all = 11
    flush_cache = 12
    set_ldt = 13
    new_user_baseptr = 15


MMUEXT_OP = struct.Struct("<III")
"""cmd, arg1 (mfn or linear address), arg2 (number of entries or pointer to a mask)."""
MMUEXT_OP_CMD, MMUEXT_OP_ARG1, MMUEXT_OP_ARG2 = 0, 4, 8

UVMF_NONE, UVMF_TLB_FLUSH, UVMF_INVLPG, UVMF_FLUSHTYPE_MASK = 0, 1, 2, 3
UVMF_LOCAL, UVMF_MULTI, UVMF_ALL = 0, 0, 4
"""Flags of update_va_mapping; for MULTI the bits above are a pointer to a mask of vCPUs."""


class VmAssistCmd(IntEnum):
    """vm_assist: command in EBX."""

    enable = 0
    disable = 1


class VmAssist(IntEnum):
    """vm_assist: type in ECX."""

    fourgb_segments = 0  # 4gb_segments
    fourgb_segments_notify = 1
    writable_pagetables = 2
    pae_extended_cr3 = 3


# --- Memory (public/memory.h) -----------------------------------------------------------------------------------------


class MemoryOp(IntEnum):
    """memory_op: command in the low MEMORY_OP_MASK bits of EBX, above them where a continuation starts."""

    increase_reservation = 0
    decrease_reservation = 1
    maximum_ram_page = 2
    current_reservation = 3
    maximum_reservation = 4
    machphys_mfn_list = 5
    populate_physmap = 6
    add_to_physmap = 7
    translate_gpfn_list = 8
    memory_map = 9
    machine_memory_map = 10
    exchange = 11
    machphys_mapping = 12


MEMORY_OP_MASK = 0xF
MEMORY_OP_START_SHIFT = 4
MEMORY_RESERVATION = struct.Struct("<IIIIHxx")
"""extent_start (pointer), nr_extents, extent_order, address_bits, domid."""
MACHPHYS_MFN_LIST = struct.Struct("<III")
"""max_extents, extent_start (pointer), nr_extents (out)."""
MACHPHYS_MAPPING = struct.Struct("<III")
"""v_start, v_end (linear), max_mfn."""
ADD_TO_PHYSMAP = struct.Struct("<HxxIII")
"""domid, space, idx, gpfn."""
DOMID = struct.Struct("<H")

# --- Scheduling (public/sched.h, public/vcpu.h) -----------------------------------------------------------------------


class SchedOp(IntEnum):
    """sched_op: command in EBX; ECX points to the argument (sched_op_compat: is the argument)."""

    yield_ = 0
    block = 1
    shutdown = 2
    poll = 3


class ShutdownReason(IntEnum):
    """Argument of SchedOp.shutdown."""

    poweroff = 0
    reboot = 1
    suspend = 2
    crash = 3


SCHED_SHUTDOWN = struct.Struct("<I")
SCHED_POLL = struct.Struct("<IIQ")
"""ports (pointer), nr_ports, timeout (absolute ns of system time, 0 = none)."""
SCHED_POLL_MAX_PORTS = 128  # common/schedule.c


class VcpuOp(IntEnum):
    """vcpu_op: command in EBX, vCPU in ECX, pointer in EDX."""

    initialise = 0
    up = 1
    down = 2
    is_up = 3
    get_runstate_info = 4
    register_runstate_memory_area = 5


class Runstate(IntEnum):
    """`state` of RUNSTATE_INFO, and the index into its times."""

    running = 0
    runnable = 1
    blocked = 2
    offline = 3


RUNSTATE_INFO = struct.Struct("<IQ4Q")
"""state, state_entry_time (ns), time in each state (ns)."""
RUNSTATE_STATE, RUNSTATE_ENTRY_TIME, RUNSTATE_TIMES = 0, 4, 12

# --- Event channels (public/event_channel.h, public/xen.h) ------------------------------------------------------------

NR_EVENT_CHANNELS = 1024


class EventOp(IntEnum):
    """event_channel_op: command in EBX, pointer in ECX."""

    bind_interdomain = 0
    bind_virq = 1
    bind_pirq = 2
    close = 3
    send = 4
    status = 5
    alloc_unbound = 6
    bind_ipi = 7
    bind_vcpu = 8
    unmask = 9


EVTCHN_BIND_INTERDOMAIN = struct.Struct("<HxxII")
"""remote_dom, remote_port, local_port (out)."""
EVTCHN_BIND_VIRQ = struct.Struct("<III")
"""virq, vcpu, port (out)."""
EVTCHN_BIND_PIRQ = struct.Struct("<III")
"""pirq, flags, port (out)."""
EVTCHN_CLOSE = struct.Struct("<I")
EVTCHN_SEND = struct.Struct("<I")
EVTCHN_STATUS = struct.Struct("<HxxIIIII")
"""dom, port, status (out), vcpu (out), then by status (out): the two words of EVTCHN_STATUS_*."""
EVTCHN_ALLOC_UNBOUND = struct.Struct("<HHI")
"""dom, remote_dom, port (out)."""
EVTCHN_BIND_IPI = struct.Struct("<II")
"""vcpu, port (out)."""
EVTCHN_BIND_VCPU = struct.Struct("<II")
"""port, vcpu."""
EVTCHN_UNMASK = struct.Struct("<I")

EVENT_ARGUMENTS: tuple[struct.Struct, ...] = (
    EVTCHN_BIND_INTERDOMAIN,
    EVTCHN_BIND_VIRQ,
    EVTCHN_BIND_PIRQ,
    EVTCHN_CLOSE,
    EVTCHN_SEND,
    EVTCHN_STATUS,
    EVTCHN_ALLOC_UNBOUND,
    EVTCHN_BIND_IPI,
    EVTCHN_BIND_VCPU,
    EVTCHN_UNMASK,
)
"""The argument of each command, indexed by EventOp."""

EVTCHN_STATUS_STATUS, EVTCHN_STATUS_VCPU, EVTCHN_STATUS_UNION = 8, 12, 16
EVTCHN_OP_CMD, EVTCHN_OP_UNION, EVTCHN_OP_SIZE = 0, 4, 28
"""event_channel_op_compat: EBX points to the command, followed by its argument."""


class ChannelStatus(IntEnum):
    """`status` of EVTCHN_STATUS."""

    closed = 0
    unbound = 1
    interdomain = 2
    pirq = 3
    virq = 4
    ipi = 5


class Virq(IntEnum):
    """Virtual interrupts. timer, debug and xenoprof are the vCPU's own, the rest the domain's."""

    timer = 0
    debug = 1
    console = 2
    dom_exc = 3
    tbuf = 4
    debugger = 6
    xenoprof = 7


NR_VIRQS = 24

# --- Physical devices and debug registers (public/physdev.h) ----------------------------------------------------------


class PhysdevOp(IntEnum):
    """physdev_op: command in EBX, pointer in ECX."""

    irq_unmask_notify = 4
    irq_status_query = 5
    set_iopl = 6
    set_iobitmap = 7
    apic_read = 8
    apic_write = 9
    alloc_irq_vector = 10
    free_irq_vector = 11


PHYSDEV_SET_IOPL = struct.Struct("<I")
PHYSDEV_SET_IOBITMAP = struct.Struct("<II")
"""bitmap (pointer), nr_ports."""
PHYSDEV_IRQ_STATUS_QUERY = struct.Struct("<II")
"""irq, flags (out)."""
PHYSDEV_APIC = struct.Struct("<III")
"""apic_physbase, reg, value."""
PHYSDEV_IRQ = struct.Struct("<II")
"""irq, vector (out)."""
PHYSDEV_OP_CMD, PHYSDEV_OP_UNION, PHYSDEV_OP_SIZE = 0, 4, 16
"""physdev_op_compat: EBX points to the command, followed by its argument."""
IOBITMAP_SIZE = 8192
MAX_IO_PORTS = 65536


# --- Console, version, features (public/xen.h, public/version.h, public/features.h) -----------------------------------


class ConsoleIo(IntEnum):
    """console_io: command in EBX, bytes in ECX, buffer in EDX."""

    write = 0
    read = 1


class VersionCmd(IntEnum):
    """xen_version: command in EBX, buffer in ECX."""

    version = 0
    extraversion = 1
    compile_info = 2
    capabilities = 3
    changeset = 4
    platform_parameters = 5
    get_features = 6
    pagesize = 7
    guest_handle = 8


XEN_VERSION = 0x00030000
"""major << 16 | minor: the same for all of 3.0."""
XEN_EXTRAVERSION = ".4-1"
XEN_CAPABILITIES = "xen-3.0-x86_32"
EXTRAVERSION_SIZE, CAPABILITIES_SIZE, CHANGESET_SIZE = 16, 1024, 64
COMPILE_INFO = struct.Struct("64s16s32s32s")
"""compiler, compile_by, compile_domain, compile_date."""
PLATFORM_PARAMETERS = struct.Struct("<I")
"""virt_start."""
FEATURE_INFO = struct.Struct("<II")
"""submap_idx, submap (out)."""

XENFEAT_WRITABLE_PAGE_TABLES, XENFEAT_WRITABLE_DESCRIPTOR_TABLES, XENFEAT_AUTO_TRANSLATED_PHYSMAP = 0, 1, 2
XENFEAT_SUPERVISOR_MODE_KERNEL, XENFEAT_PAE_PGDIR_ABOVE_4GB = 3, 4
"""Bit numbers in the first submap."""

# --- multicall (public/xen.h) -----------------------------------------------------------------------------------------

MULTICALL_ENTRY = struct.Struct("<II6I")
"""op, result (out), args; x86_32 passes the first five."""
MULTICALL_OP, MULTICALL_RESULT, MULTICALL_ARGS = 0, 4, 8

# --- Grant tables (public/grant_table.h) ------------------------------------------------------------------------------


class GrantOp(IntEnum):
    """grant_table_op: command in EBX, array in ECX, entries in EDX."""

    map_grant_ref = 0
    unmap_grant_ref = 1
    setup_table = 2
    dump_table = 3
    transfer = 4


class GrantStatus(IntEnum):
    """Result of one entry."""

    okay = 0
    general_error = -1
    bad_domain = -2
    bad_gntref = -3
    bad_handle = -4
    bad_virt_addr = -5
    bad_dev_addr = -6
    no_device_space = -7
    permission_denied = -8
    bad_page = -9


GRANT_MAP = struct.Struct("<QIIHhIQ")
"""host_addr, flags, ref, dom, status (out), handle (out), dev_bus_addr (out)."""
GRANT_UNMAP = struct.Struct("<QQIhxx")
"""host_addr, dev_bus_addr, handle, status (out)."""
GRANT_SETUP_TABLE = struct.Struct("<HxxIhxxI")
"""dom, nr_frames, status (out), frame_list (pointer)."""
GRANT_DUMP_TABLE = struct.Struct("<Hh")
"""dom, status (out)."""
GRANT_TRANSFER = struct.Struct("<IHxxIhxx")
"""mfn, domid, ref, status (out)."""
GRANT_ENTRY = struct.Struct("<HHI")
"""flags, domid, frame."""
GRANT_MAX_COUNT = 512
GTF_INVALID, GTF_PERMIT_ACCESS, GTF_ACCEPT_TRANSFER, GTF_TYPE_MASK = 0, 1, 2, 3
GTF_READONLY, GTF_READING, GTF_WRITING = 4, 8, 16
GTF_TRANSFER_COMMITTED, GTF_TRANSFER_COMPLETED = 4, 8
GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GNTMAP_APPLICATION_MAP, GNTMAP_CONTAINS_PTE = 1, 2, 4, 8, 16

# --- Shared structures (public/xen.h, public/arch-x86_32.h) -----------------------------------------------------------

# vcpu_info
VCPU_INFO_PENDING, VCPU_INFO_MASK, VCPU_INFO_PENDING_SEL, VCPU_INFO_CR2, VCPU_INFO_TIME = 0x00, 0x01, 0x04, 0x08, 0x20
VCPU_INFO_SIZE = 0x40

# vcpu_time_info: system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32, in ns
VCPU_TIME = struct.Struct("<I4xQQIb3x")
"""version (odd while it changes), tsc_timestamp, system_time (ns), tsc_to_system_mul, tsc_shift."""
VCPU_TIME_VERSION, VCPU_TIME_TSC_TIMESTAMP, VCPU_TIME_SYSTEM_TIME = 0x00, 0x08, 0x10
VCPU_TIME_TSC_TO_SYSTEM_MUL, VCPU_TIME_TSC_SHIFT = 0x18, 0x1C
VCPU_TIME_SIZE = 0x20

# shared_info. 3.0.4 appends nmi_reason and 256 bytes of padding; 3.0.0 ends at 0x914.
SHARED_INFO_VCPU_INFO, SHARED_INFO_EVTCHN_PENDING, SHARED_INFO_EVTCHN_MASK = 0x000, 0x800, 0x880
SHARED_INFO_WC_VERSION, SHARED_INFO_WC_SEC, SHARED_INFO_WC_NSEC = 0x900, 0x904, 0x908
SHARED_INFO_MAX_PFN, SHARED_INFO_PFN_TO_MFN_FRAME_LIST_LIST, SHARED_INFO_NMI_REASON = 0x90C, 0x910, 0x914
SHARED_INFO_SIZE = 0xA18

# start_info
START_INFO_MAGIC = b"xen-3.0-x86_32"
START_INFO_MAGIC_SIZE, START_INFO_NR_PAGES, START_INFO_SHARED_INFO, START_INFO_FLAGS = 0x20, 0x20, 0x24, 0x28
"""shared_info is a machine address."""
START_INFO_STORE_MFN, START_INFO_STORE_EVTCHN = 0x2C, 0x30
START_INFO_CONSOLE_MFN, START_INFO_CONSOLE_EVTCHN = 0x34, 0x38
START_INFO_PT_BASE, START_INFO_NR_PT_FRAMES, START_INFO_MFN_LIST = 0x3C, 0x40, 0x44
START_INFO_MOD_START, START_INFO_MOD_LEN, START_INFO_CMD_LINE, START_INFO_CMD_LINE_SIZE = 0x48, 0x4C, 0x50, 1024
START_INFO_SIZE = 0x450
SIF_PRIVILEGED, SIF_INITDOMAIN = 1, 2

# cpu_user_regs
USER_REGS = struct.Struct("<7IHHIHBxIIHxxHxxHxxHxxHxx")
"""ebx ecx edx esi edi ebp eax, error_code, entry_vector, eip, cs, saved_upcall_mask, eflags, esp, ss es ds fs gs."""
USER_REGS_OFFSETS: tuple[tuple[str, int], ...] = (
    ("ebx", 0x00),
    ("ecx", 0x04),
    ("edx", 0x08),
    ("esi", 0x0C),
    ("edi", 0x10),
    ("ebp", 0x14),
    ("eax", 0x18),
    ("error_code", 0x1C),
    ("entry_vector", 0x1E),
    ("eip", 0x20),
    ("cs", 0x24),
    ("saved_upcall_mask", 0x26),
    ("eflags", 0x28),
    ("esp", 0x2C),
    ("ss", 0x30),
    ("es", 0x34),
    ("ds", 0x38),
    ("fs", 0x3C),
    ("gs", 0x40),
)
USER_REGS_SIZE = 0x44

# vcpu_guest_context
GUEST_CONTEXT_FPU, GUEST_CONTEXT_FPU_SIZE, GUEST_CONTEXT_FLAGS, GUEST_CONTEXT_USER_REGS = 0x000, 512, 0x200, 0x204
GUEST_CONTEXT_TRAP_CTXT, GUEST_CONTEXT_LDT_BASE, GUEST_CONTEXT_LDT_ENTS = 0x248, 0xA48, 0xA4C
GUEST_CONTEXT_GDT_FRAMES, GUEST_CONTEXT_GDT_ENTS, GUEST_CONTEXT_KERNEL_SS, GUEST_CONTEXT_KERNEL_SP = (
    0xA50, 0xA90, 0xA94, 0xA98)
GUEST_CONTEXT_CTRLREG, GUEST_CONTEXT_DEBUGREG = 0xA9C, 0xABC
GUEST_CONTEXT_EVENT_CS, GUEST_CONTEXT_EVENT_EIP, GUEST_CONTEXT_FAILSAFE_CS, GUEST_CONTEXT_FAILSAFE_EIP = (
    0xADC, 0xAE0, 0xAE4, 0xAE8)
GUEST_CONTEXT_VM_ASSIST = 0xAEC
GUEST_CONTEXT_SIZE = 0xAF0
VGCF_I387_VALID, VGCF_HVM_GUEST, VGCF_IN_KERNEL = 1, 2, 4

# --- Boot images (public/elfnote.h) -----------------------------------------------------------------------------------

ELF_NOTE_NAME = "Xen"
LEGACY_SECTION = "__xen_guest"
"""A section of KEY=VALUE pairs, comma-separated: what kernels had before there were notes."""


class ElfNote(IntEnum):
    """Types of the notes named ELF_NOTE_NAME. 3.0.4 knows those up to 12; 18 is later."""

    info = 0
    entry = 1
    hypercall_page = 2
    virt_base = 3
    paddr_offset = 4
    xen_version = 5
    guest_os = 6
    guest_version = 7
    loader = 8
    pae_mode = 9
    features = 10
    bsd_symtab = 11
    hv_start_low = 12
    phys32_entry = 18

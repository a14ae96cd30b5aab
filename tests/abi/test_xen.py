"""The layouts of abi/xen.py against each other and against the totals that the public headers compile to."""

from __future__ import annotations

import struct

import pytest

from harness.abi import x86, xen


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        (xen.TRAP_INFO, 8),
        (xen.CALLBACK_REGISTER, 12),
        (xen.MMU_UPDATE, 16),
        (xen.MMUEXT_OP, 12),
        (xen.MEMORY_RESERVATION, 20),
        (xen.ADD_TO_PHYSMAP, 16),
        (xen.SCHED_SHUTDOWN, 4),
        (xen.SCHED_POLL, 16),
        (xen.RUNSTATE_INFO, 44),
        (xen.COMPILE_INFO, 144),
        (xen.MULTICALL_ENTRY, 32),
        (xen.GRANT_MAP, 32),
        (xen.GRANT_UNMAP, 24),
        (xen.GRANT_SETUP_TABLE, 16),
        (xen.GRANT_DUMP_TABLE, 4),
        (xen.GRANT_TRANSFER, 16),
        (xen.GRANT_ENTRY, 8),
        (xen.VCPU_TIME, xen.VCPU_TIME_SIZE),
        (xen.USER_REGS, xen.USER_REGS_SIZE),
    ],
)
def test_size_of_structure(layout: struct.Struct, size: int) -> None:
    assert layout.size == size


def test_compatible_operations_hold_their_largest_argument() -> None:
    assert xen.EVTCHN_OP_UNION + max(s.size for s in xen.EVENT_ARGUMENTS) == xen.EVTCHN_OP_SIZE
    physdev = (xen.PHYSDEV_SET_IOPL, xen.PHYSDEV_SET_IOBITMAP, xen.PHYSDEV_APIC, xen.PHYSDEV_IRQ)
    assert xen.PHYSDEV_OP_UNION + max(s.size for s in physdev) == xen.PHYSDEV_OP_SIZE


def test_every_event_operation_has_an_argument() -> None:
    assert [op.value for op in xen.EventOp] == list(range(len(xen.EVENT_ARGUMENTS)))
    assert xen.EVENT_ARGUMENTS[xen.EventOp.unmask] is xen.EVTCHN_UNMASK
    assert xen.EVENT_ARGUMENTS[xen.EventOp.status].size == xen.EVTCHN_STATUS_UNION + 8


def test_vcpu_info_ends_with_the_time() -> None:
    assert xen.VCPU_INFO_TIME + xen.VCPU_TIME_SIZE == xen.VCPU_INFO_SIZE
    assert xen.VCPU_TIME.pack(1, 2, 3, 4, -5)[xen.VCPU_TIME_TSC_SHIFT] == 256 - 5


def test_shared_info_adds_up() -> None:
    assert xen.MAX_VIRT_CPUS * xen.VCPU_INFO_SIZE == xen.SHARED_INFO_EVTCHN_PENDING
    assert xen.SHARED_INFO_EVTCHN_PENDING + xen.NR_EVENT_CHANNELS // 8 == xen.SHARED_INFO_EVTCHN_MASK
    assert xen.SHARED_INFO_EVTCHN_MASK + xen.NR_EVENT_CHANNELS // 8 == xen.SHARED_INFO_WC_VERSION
    # arch_shared_info of 3.0.4: three words and 32 * 8 bytes of padding
    assert xen.SHARED_INFO_MAX_PFN == xen.SHARED_INFO_WC_NSEC + 4
    assert xen.SHARED_INFO_NMI_REASON + 4 + 32 * 8 == xen.SHARED_INFO_SIZE == 0xA18


def test_start_info_adds_up() -> None:
    assert len(xen.START_INFO_MAGIC) < xen.START_INFO_MAGIC_SIZE
    words = [
        xen.START_INFO_NR_PAGES,
        xen.START_INFO_SHARED_INFO,
        xen.START_INFO_FLAGS,
        xen.START_INFO_STORE_MFN,
        xen.START_INFO_STORE_EVTCHN,
        xen.START_INFO_CONSOLE_MFN,
        xen.START_INFO_CONSOLE_EVTCHN,
        xen.START_INFO_PT_BASE,
        xen.START_INFO_NR_PT_FRAMES,
        xen.START_INFO_MFN_LIST,
        xen.START_INFO_MOD_START,
        xen.START_INFO_MOD_LEN,
        xen.START_INFO_CMD_LINE,
    ]
    assert words == list(range(xen.START_INFO_MAGIC_SIZE, xen.START_INFO_MAGIC_SIZE + 4 * len(words), 4))
    assert xen.START_INFO_CMD_LINE + xen.START_INFO_CMD_LINE_SIZE == xen.START_INFO_SIZE == 0x450


def test_user_regs_struct_and_offsets_agree() -> None:
    names = [name for name, _ in xen.USER_REGS_OFFSETS]
    packed = xen.USER_REGS.pack(*range(1, len(names) + 1))
    assert [packed[offset] for _, offset in xen.USER_REGS_OFFSETS] == list(range(1, len(names) + 1))


def test_guest_context_adds_up() -> None:
    assert xen.GUEST_CONTEXT_FLAGS == xen.GUEST_CONTEXT_FPU + xen.GUEST_CONTEXT_FPU_SIZE
    assert xen.GUEST_CONTEXT_USER_REGS + xen.USER_REGS_SIZE == xen.GUEST_CONTEXT_TRAP_CTXT
    assert xen.GUEST_CONTEXT_TRAP_CTXT + xen.NR_TRAP_VECTORS * xen.TRAP_INFO.size == xen.GUEST_CONTEXT_LDT_BASE
    assert xen.GUEST_CONTEXT_GDT_FRAMES + 16 * 4 == xen.GUEST_CONTEXT_GDT_ENTS
    assert xen.GUEST_CONTEXT_CTRLREG + 8 * 4 == xen.GUEST_CONTEXT_DEBUGREG
    assert xen.GUEST_CONTEXT_DEBUGREG + 8 * 4 == xen.GUEST_CONTEXT_EVENT_CS
    assert xen.GUEST_CONTEXT_VM_ASSIST + 4 == xen.GUEST_CONTEXT_SIZE == 2800


def test_trap_info_struct_and_offsets_agree() -> None:
    packed = xen.TRAP_INFO.pack(0x80, 7, 0xE019, 0x12345678)
    assert packed[xen.TRAP_INFO_VECTOR] == 0x80
    assert packed[xen.TRAP_INFO_FLAGS] == xen.TRAP_INFO_DPL | xen.TRAP_INFO_IF
    assert packed[xen.TRAP_INFO_CS :][:2] == b"\x19\xe0"
    assert packed[xen.TRAP_INFO_ADDRESS :] == b"\x78\x56\x34\x12"


def test_selectors_lie_in_the_reserved_page_and_end_below_the_hypervisor() -> None:
    assert xen.FIRST_RESERVED_GDT_ENTRY * 8 == xen.FIRST_RESERVED_GDT_PAGE * x86.PAGE_SIZE
    for selector, descriptor in xen.FLAT_DESCRIPTORS:
        low, high = descriptor & 0xFFFFFFFF, descriptor >> 32
        assert selector >> 3 > xen.FIRST_RESERVED_GDT_ENTRY
        assert x86.descriptor_dpl(high) == selector & x86.SELECTOR_RPL
        assert x86.descriptor_base(low, high) == 0
        end = 1 << 32 if selector & x86.SELECTOR_RPL == 0 else xen.GUEST_SEGMENT_MAX
        assert x86.descriptor_limit(low, high) + 1 == end


def test_the_hypervisor_area_is_filled_from_the_top() -> None:
    # asm-x86/config.h of 3.0, not PAE, MiB from the top: I/O remapping, direct map, per-domain with the map cache,
    # shadow and guest linear page tables, machine-to-physical (writable), frame table, machine-to-physical (read-only)
    sizes = [4, 12, 8, 4, 4, 4, 24, 4]
    starts = [(1 << 32) - (sum(sizes[: n + 1]) << 20) for n in range(len(sizes))]
    assert starts[2] == xen.PERDOMAIN_VIRT_START
    assert starts[-1] == xen.HYPERVISOR_VIRT_START == xen.MACH2PHYS_VIRT_START
    assert starts[-2] == xen.MACH2PHYS_VIRT_END
    assert xen.LDT_VIRT_START - xen.GDT_VIRT_START == xen.MAX_LDT_ENTRIES * 8


def test_hypercall_stubs() -> None:
    stub = xen.HYPERCALL_STUB_HEAD + struct.pack("<I", xen.Hypercall.sched_op) + xen.HYPERCALL_STUB_TAIL
    assert stub == bytes.fromhex("b8 1d000000 cd82 c3")
    assert xen.HYPERCALL_IRET_STUB[2] == xen.Hypercall.iret
    assert xen.HYPERCALL_STUB_TAIL[:2] == xen.HYPERCALL_INSTRUCTION == bytes([0xCD, xen.HYPERCALL_VECTOR])
    assert xen.NR_HYPERCALLS * xen.HYPERCALL_STUB_SIZE <= x86.PAGE_SIZE


def test_no_hypercall_where_the_table_has_holes() -> None:
    numbers = {call.value for call in xen.Hypercall}
    assert numbers == set(range(38)) - {11}
    assert (xen.Hypercall.iret, xen.Hypercall.event_channel_op, xen.Hypercall.domctl) == (23, 32, 36)


def test_iret_frame() -> None:
    assert xen.IRET_GS + 4 == xen.IRET_FRAME_SIZE

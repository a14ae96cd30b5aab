"""Privileged instructions in ring 1: what Xen 3.0.4 emulates, what it bounces, and what the full policy gives.

Every row of the tables, with its result and its refusals (xen/arch/x86/traps.c, emulate_privileged_op; SDM 2).
"""

from __future__ import annotations

import pytest

from harness.abi import xen
from harness.abi.x86 import (
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_PGE,
    CR4_PSE,
    CR4_TSD,
    Gpr,
    Vector,
)
from harness.abi.xen import Hypercall, MmuExt
from harness.code.decoder import Instruction
from harness.domain.features import MSR_TSC, MSRS
from harness.domain.outcome import BLOCK, RETIRE, Inject, Outcome
from harness.pv import emulate, hypercall_page
from harness.pv.pages import PageType
from harness.pv.state import Vcpu
from tests.pv.stage import CODE, DATA, NOWHERE, SPARE, Stage, descriptor

GP0 = Inject(Vector.GP, 0)
MSR_SYSENTER_CS, MSR_EFER, NO_MSR, HYPERVISOR_MSR = 0x174, 0xC0000080, 0x12345, 0x40000000

XEN_KERNEL = {
    "0f06": "clts", "0f09": "wbinvd", "f30f09": "wbnoinvd", "0f20c0": "read cr0", "0f20d0": "read cr2",
    "0f20d8": "read cr3", "0f20e0": "read cr4", "0f22d0": "write cr2", "0f21c0": "read dr0", "0f21f0": "read dr6",
    "0f21f8": "read dr7", "0f23c0": "write dr0", "0f30": "wrmsr",
}
"""Emulated for a kernel whatever EAX is, and for nobody else."""
FULL_KERNEL = {
    "0f0113": "lgdt [ebx]", "0f011b": "lidt [ebx]", "0f00d0": "lldt ax", "0f01f0": "lmsw ax", "0f0133": "lmsw [ebx]",
    "0f013b": "invlpg [ebx]", "0f08": "invd",
}
"""What the full policy adds for a kernel."""
NEVER = {
    "0f33": "rdpmc", "0f35": "sysexit", "0f01d1": "xsetbv", "0f01d0": "xgetbv", "0f01d8": "vmrun", "0f01f8": "swapgs",
    "0f01c1": "vmcall", "0f00c0": "sldt", "0f0103": "sgdt", "0f01e0": "smsw", "90": "nop", "0f31": "rdtsc",
}


def emulated(stage: Stage, code: str) -> bool:
    """Whether an instruction that faulted is not bounced as #GP(0)."""
    outcome = stage.gp(code)
    assert outcome in (RETIRE, GP0)
    return outcome == RETIRE


def in_ring_3(stage: Stage, iopl: int = 0) -> Stage:
    stage.state.iopl = iopl
    stage.open_to_user(CODE)
    stage.enter(3)
    return stage


# -- Who may have what


@pytest.mark.parametrize("code", XEN_KERNEL)
def test_xens_list(stage: Stage, full: Stage, code: str) -> None:
    for each in (stage, full):
        each.regs.gpr[Gpr.ECX] = MSR_SYSENTER_CS
        assert emulated(each, code)
        assert not emulated(in_ring_3(each, iopl=3), code)


@pytest.mark.parametrize("code", [*FULL_KERNEL, "f4", "0f00d8"])
def test_what_only_the_full_policy_has(stage: Stage, full: Stage, code: str) -> None:
    stage.regs.gpr[Gpr.EBX] = full.regs.gpr[Gpr.EBX] = DATA
    assert not emulated(stage, code)
    if code in FULL_KERNEL:
        assert emulated(full, code)
    assert not emulated(in_ring_3(full, iopl=3), code)


@pytest.mark.parametrize("code", NEVER)
def test_what_nobody_has(stage: Stage, full: Stage, code: str) -> None:
    """A ModRM byte that another instruction owns is not taken for LGDT, LIDT or INVLPG."""
    for each in (stage, full):
        each.regs.gpr[Gpr.EBX] = DATA
        assert not emulated(each, code)


@pytest.mark.parametrize("eip_past", [0, 2])
def test_eip_stays_where_an_instruction_was_refused(stage: Stage, eip_past: int) -> None:
    stage.gp("0f33" if not eip_past else "0f06")
    assert stage.regs.eip == CODE + eip_past


@pytest.mark.parametrize("prefix", ["66", "67", "2e", "3e", "26", "64", "65", "36", "f2", "f3"])
@pytest.mark.parametrize(("count", "okay"), [(0, True), (1, True), (7, True), (8, False)])
def test_seven_prefixes_are_the_most(stage: Stage, prefix: str, count: int, okay: bool) -> None:
    assert emulated(stage, prefix * count + "0f06") == okay


def test_lock_is_not_a_prefix_of_these(stage: Stage) -> None:
    assert not emulated(stage, "f00f06")


def test_an_emulator_of_the_users_own_comes_first(stage: Stage) -> None:
    def own(vcpu: Vcpu, instruction: Instruction) -> Outcome:
        vcpu.regs.gpr[Gpr.EAX] = instruction.opcode
        return RETIRE

    stage.vcpu.emulators[0xF4] = stage.vcpu.emulators[0x0F06] = own
    assert emulated(stage, "f4")
    assert stage.regs.gpr[Gpr.EAX] == 0xF4
    assert emulated(in_ring_3(stage), "0f06"), "it judges the ring itself"
    assert stage.vcpu.seen.handler is own


def test_who_dealt_with_it_is_known(stage: Stage, full: Stage) -> None:
    stage.gp("0f22c0")
    full.gp("0f22c0")
    assert stage.vcpu.seen.handler is emulate.emulate_write_cr
    assert full.vcpu.seen.handler is emulate.full_write_cr


# -- CLI, STI, HLT


@pytest.mark.parametrize(("ring", "iopl", "okay"), [
    (1, 0, False), (1, 1, True), (1, 2, True), (1, 3, True), (3, 0, False), (3, 1, False), (3, 2, False), (3, 3, True)])
@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize("code", ["fa", "fb"])
def test_cli_and_sti_do_nothing(stage: Stage, ring: int, iopl: int, okay: bool, mask: int, code: str) -> None:
    stage.vcpu.mask = mask
    if ring == 3:
        in_ring_3(stage)
    stage.state.iopl = iopl
    assert emulated(stage, code) == okay
    assert (stage.vcpu.mask, stage.regs.eflags, stage.vcpu.shadow_next) == (mask, 0x202, False)


@pytest.mark.parametrize(("ring", "iopl", "okay"), [
    (1, 0, True), (1, 3, True), (3, 0, False), (3, 1, False), (3, 2, False), (3, 3, True)])
@pytest.mark.parametrize("mask", [0, 1])
@pytest.mark.parametrize(("code", "after"), [("fa", 1), ("fb", 0)])
def test_cli_and_sti_move_the_virtual_if(
        full: Stage, ring: int, iopl: int, okay: bool, mask: int, code: str, after: int) -> None:
    """STI has a shadow of one instruction, if IF was clear (SDM 2, STI)."""
    full.vcpu.mask = mask
    if ring == 3:
        in_ring_3(full)
    full.state.iopl = iopl
    assert emulated(full, code) == okay
    assert full.vcpu.mask == (after if okay else mask)
    assert full.vcpu.shadow_next == (okay and code == "fb" and mask == 1)
    assert full.regs.eflags == 0x202, "the real IF stays"


@pytest.mark.parametrize("mask", [0, 1])
def test_hlt_waits(full: Stage, mask: int) -> None:
    full.vcpu.mask = mask
    assert full.gp("f4") == BLOCK
    assert (full.regs.eip, full.state.blocked, full.vcpu.mask) == (CODE + 1, True, mask)


# -- Control registers


@pytest.mark.parametrize("register", range(8))
@pytest.mark.parametrize("virtual", [0, CR0_TS])
@pytest.mark.parametrize("real", [0, CR0_TS])
def test_cr0_reads_as_the_real_one_with_the_virtual_ts(stage: Stage, register: int, virtual: int, real: int) -> None:
    stage.state.control[0] = virtual
    rest = stage.regs.cr0 & ~CR0_TS
    stage.regs.cr0 = rest | real
    assert emulated(stage, f"0f20{0xC0 + register:02x}")
    assert stage.regs.gpr[register] == rest | virtual
    assert rest & (CR0_PE | CR0_PG) == CR0_PE | CR0_PG


def test_cr2_is_the_virtual_one(stage: Stage) -> None:
    stage.regs.gpr[Gpr.ECX] = 0x12345678
    assert emulated(stage, "0f22d1")
    assert (stage.state.control[2], stage.info(xen.VCPU_INFO_CR2)) == (0x12345678, 0x12345678)
    assert emulated(stage, "0f20d3")
    assert stage.regs.gpr[Gpr.EBX] == 0x12345678


def test_mod_is_ignored(stage: Stage) -> None:
    """MOV CR takes two registers whatever ModRM.mod says (SDM 2, MOV control registers)."""
    stage.state.control[2] = 0x5678
    assert emulated(stage, "0f2013")
    assert stage.regs.gpr[Gpr.EBX] == 0x5678


def test_cr3_is_a_machine_address(stage: Stage) -> None:
    assert emulated(stage, "0f20d8")
    assert stage.regs.gpr[Gpr.EAX] == stage.state.guest_table << 12 == stage.regs.cr3


@pytest.mark.parametrize("policy", ["stage", "full"])
def test_cr3_takes_a_directory(policy: str, request: pytest.FixtureRequest) -> None:
    stage: Stage = request.getfixturevalue(policy)
    new = stage.read_only(SPARE)
    stage.put(SPARE, stage.ram.read(stage.state.guest_table << 12, 4))
    old, stage.vcpu.reload = stage.state.guest_table, False
    stage.regs.gpr[Gpr.EAX] = new << 12
    flushes = stage.cpu.flushes
    assert emulated(stage, "0f22d8")
    assert (stage.regs.cr3, stage.state.guest_table) == (new << 12, new)
    assert stage.pages.type[new] == PageType.L2
    assert stage.cpu.flushes > flushes
    assert new != old


@pytest.mark.parametrize("frame", ["writable", "xen", "beyond"])
def test_cr3_takes_nothing_else(stage: Stage, full: Stage, frame: str) -> None:
    for each in (stage, full):
        before = each.regs.cr3, each.state.guest_table
        each.regs.gpr[Gpr.EAX] = {"writable": each.mfn(SPARE), "xen": 1, "beyond": 0xFFFFF}[frame] << 12
        assert not emulated(each, "0f22d8")
        assert (each.regs.cr3, each.state.guest_table) == before


def test_cr4_hides_what_guests_cannot_have(stage: Stage) -> None:
    stage.regs.cr4 |= CR4_PSE | CR4_PGE
    real = stage.regs.cr4
    assert emulated(stage, "0f20e0")
    assert stage.regs.gpr[Gpr.EAX] == real & ~(CR4_PSE | CR4_PGE)
    assert emulated(stage, "0f22e0"), "what was read may be written"
    assert stage.regs.cr4 == real


@pytest.mark.parametrize("change", [CR4_PSE, CR4_PGE, CR4_TSD, 1 << 9, 1 << 31])
def test_cr4_cannot_be_changed(stage: Stage, change: int) -> None:
    real = stage.regs.cr4
    stage.regs.gpr[Gpr.EAX] = (real & ~(CR4_PSE | CR4_PGE)) ^ change
    assert not emulated(stage, "0f22e0")
    assert stage.regs.cr4 == real


@pytest.mark.parametrize("dirtied", [False, True])
@pytest.mark.parametrize("value", [0, CR0_TS])
def test_cr0_takes_ts(stage: Stage, value: int, dirtied: bool) -> None:
    stage.state.fpu_dirtied = dirtied
    stage.state.control[0] = value ^ CR0_TS
    rest = stage.regs.cr0 & ~CR0_TS
    stage.regs.cr0 = rest | CR0_TS
    stage.regs.gpr[Gpr.EDX] = rest | value
    assert emulated(stage, "0f22c2")
    assert stage.state.control[0] == value
    assert stage.regs.cr0 == rest | (0 if dirtied and not value else CR0_TS)


@pytest.mark.parametrize("bit", [n for n in range(32) if 1 << n != CR0_TS])
def test_cr0_takes_nothing_else(stage: Stage, bit: int) -> None:
    before = stage.regs.cr0, stage.state.control[0]
    stage.regs.gpr[Gpr.EDX] = (stage.regs.cr0 ^ 1 << bit) & ~CR0_TS
    assert not emulated(stage, "0f22c2")
    assert (stage.regs.cr0, stage.state.control[0]) == before


@pytest.mark.parametrize("number", [1, 5, 6, 7])
@pytest.mark.parametrize("direction", ["0f20", "0f22"])
def test_there_are_no_other_control_registers(stage: Stage, full: Stage, number: int, direction: str) -> None:
    assert not emulated(stage, f"{direction}{0xC0 + 8 * number:02x}")
    assert not emulated(full, f"{direction}{0xC0 + 8 * number:02x}")


# -- Control registers of the full policy

CR0_MOVES = (CR0_MP, CR0_EM, CR0_TS, CR0_NE, CR0_WP, CR0_AM, CR0_CD, CR0_CD | CR0_NW)


@pytest.mark.parametrize("change", CR0_MOVES)
def test_the_virtual_cr0_keeps_what_was_written(full: Stage, change: int) -> None:
    assert emulated(full, "0f20c0")
    start = full.regs.gpr[Gpr.EAX]
    full.regs.gpr[Gpr.EAX] = start ^ change
    assert emulated(full, "0f22c0")
    assert emulated(full, "0f20c1")
    assert full.regs.gpr[Gpr.ECX] == start ^ change
    full.scanned("smsw", "0f01e2")
    assert full.regs.gpr[Gpr.EDX] == start ^ change, "SMSW says the same"


@pytest.mark.parametrize("bits", range(4))
def test_what_fpu_instructions_look_at_is_real(full: Stage, bits: int) -> None:
    """EM and MP decide about #NM and #UD in the CPU itself (SDM 3, table 2-2); paging and protection stay."""
    wanted = (CR0_MP if bits & 1 else 0) | (CR0_EM if bits & 2 else 0)
    rest = full.regs.cr0 & ~(CR0_MP | CR0_EM | CR0_TS)
    full.regs.gpr[Gpr.EAX] = CR0_PE | CR0_PG | wanted
    assert emulated(full, "0f22c0")
    assert full.regs.cr0 & ~CR0_TS == rest | wanted


@pytest.mark.parametrize("virtual_ts", [0, CR0_TS])
def test_with_em_every_use_of_the_fpu_is_the_guests(full: Stage, virtual_ts: int) -> None:
    """There is no FPU to give, and no flag that a use would clear."""
    full.regs.gpr[Gpr.EAX] = CR0_PE | CR0_PG | CR0_EM | virtual_ts
    assert emulated(full, "0f22c0")
    before = full.regs.cr0
    assert full.fault(Vector.NM, code=bytes.fromhex("d9e8")) == Inject(Vector.NM)
    assert (full.regs.cr0, full.state.control[0], full.state.fpu_dirtied) == (before, virtual_ts, False)


@pytest.mark.parametrize("value", [
    0, CR0_PE, CR0_PG, CR0_PE | CR0_PG | CR0_NW, CR0_PE | CR0_TS])
def test_the_virtual_cr0_refuses(full: Stage, value: int) -> None:
    """NW without CD (SDM 3, table 11-5), and what would end paging or protection."""
    before = full.regs.cr0, full.state.virtual.cr0, full.state.control[0]
    full.regs.gpr[Gpr.EAX] = value
    assert not emulated(full, "0f22c0")
    assert (full.regs.cr0, full.state.virtual.cr0, full.state.control[0]) == before


@pytest.mark.parametrize(("value", "okay"), [
    (0, True), (CR4_PSE | CR4_PGE, True), (0x7FF, True), (1 << 11, False), (1 << 13, False), (1 << 31, False)])
def test_the_virtual_cr4(full: Stage, value: int, okay: bool) -> None:
    real, before = full.regs.cr4, full.state.virtual.cr4
    full.regs.gpr[Gpr.EAX] = value
    assert emulated(full, "0f22e0") == okay
    assert emulated(full, "0f20e1")
    assert full.regs.gpr[Gpr.ECX] == (value if okay else before)
    assert full.regs.cr4 == real


@pytest.mark.parametrize("register", [2, 3])
def test_cr2_and_cr3_are_as_xens(full: Stage, register: int) -> None:
    full.regs.gpr[Gpr.EAX] = full.regs.cr3
    assert emulated(full, f"0f22{0xC0 + 8 * register:02x}")
    assert emulated(full, f"0f20{0xC1 + 8 * register:02x}")
    assert full.regs.gpr[Gpr.ECX] == full.regs.cr3


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize(("value", "start", "expected"), [
    (0xF, 1, 0xF), (0xFFFF, 1, 0xF), (0x7, 1, 0x7), (0x8, 1, 0x9), (0, 0xF, 1), (1, 0xF, 1), (0xFFF0, 0xF, 1)])
def test_lmsw_changes_four_bits_and_cannot_clear_pe(
        full: Stage, memory: bool, value: int, start: int, expected: int) -> None:
    full.regs.gpr[Gpr.EAX] = 0x80050030 | start
    assert emulated(full, "0f22c0")
    full.regs.gpr[Gpr.EAX], full.regs.gpr[Gpr.EBX] = 0xABCD0000 | value, DATA
    full.words(DATA, 0xABCD0000 | value)
    assert emulated(full, "0f0133" if memory else "0f01f0")
    assert emulated(full, "0f20c1")
    assert full.regs.gpr[Gpr.ECX] == 0x80050030 | expected


# -- Debug registers


def test_debug_registers_by_mov(stage: Stage) -> None:
    stage.regs.gpr[Gpr.ECX] = 0x1234
    assert emulated(stage, "0f23d1"), "mov dr2, ecx"
    assert emulated(stage, "0f21d3"), "mov ebx, dr2"
    assert stage.regs.gpr[Gpr.EBX] == stage.regs.debug(2) == 0x1234


@pytest.mark.parametrize(("code", "value"), [
    ("0f23c1", 0xFC000000), ("0f23e1", 0), ("0f23e9", 0), ("0f23f9", 1 << 13), ("0f23f9", 0x20000)])
def test_debug_registers_refuse(stage: Stage, code: str, value: int) -> None:
    """A breakpoint on Xen, DR4 and DR5, GD, an I/O breakpoint."""
    stage.regs.gpr[Gpr.ECX] = value
    assert not emulated(stage, code)


@pytest.mark.parametrize(("value", "okay"), [(0xFFFFFF00, True), (0xFFFFFF01, False), (0xFFFFFFFF, False)])
def test_what_looks_like_an_error_is_one(stage: Stage, value: int, okay: bool) -> None:
    """get_debugreg's last 255 values: Xen cannot tell."""
    stage.state.debug[6] = value
    stage.regs.gpr[Gpr.EBX] = 0x55
    assert emulated(stage, "0f21f3") == okay
    assert stage.regs.gpr[Gpr.EBX] == (value if okay else 0x55)


# -- Model-specific registers


def rdmsr(stage: Stage, number: int) -> int | None:
    gpr = stage.regs.gpr
    gpr[Gpr.ECX], gpr[Gpr.EAX], gpr[Gpr.EDX] = number, 0x55, 0x66
    if emulated(stage, "0f32"):
        return gpr[Gpr.EDX] << 32 | gpr[Gpr.EAX]
    assert (gpr[Gpr.EAX], gpr[Gpr.EDX]) == (0x55, 0x66)
    return None


def wrmsr(stage: Stage, number: int, value: int) -> bool:
    gpr = stage.regs.gpr
    gpr[Gpr.ECX], gpr[Gpr.EAX], gpr[Gpr.EDX] = number, value & 0xFFFFFFFF, value >> 32
    return emulated(stage, "0f30")


@pytest.mark.parametrize("number", [n for n in MSRS if n != MSR_TSC])
def test_every_msr_of_the_machine_is_read(stage: Stage, full: Stage, number: int) -> None:
    assert rdmsr(stage, number) == rdmsr(full, number) == MSRS[number].value


def test_the_reset_value_of_the_pat() -> None:
    """SDM 3, table 11-12: WB, WT, UC-, UC, twice."""
    assert MSRS[0x277].value == 0x0007040600070406


@pytest.mark.parametrize("policy", ["stage", "full"])
def test_the_time_stamp_counter_is_virtual_time(policy: str, request: pytest.FixtureRequest) -> None:
    stage: Stage = request.getfixturevalue(policy)
    stage.domain.clock.now = 0x1_2345_6789
    assert rdmsr(stage, MSR_TSC) == 0x1_2345_6789


def test_an_msr_that_does_not_exist(stage: Stage, full: Stage) -> None:
    assert rdmsr(stage, NO_MSR) is None
    assert rdmsr(full, NO_MSR) is None


def test_writing_msrs_is_ignored(stage: Stage) -> None:
    """Whatever the register: Xen says so in its log only."""
    assert wrmsr(stage, NO_MSR, 1)
    assert wrmsr(stage, MSR_EFER, 0xFFFFFFFFFFFFFFFF)
    assert wrmsr(stage, MSR_SYSENTER_CS, 0x10)
    assert rdmsr(stage, MSR_SYSENTER_CS) == 0


@pytest.mark.parametrize(("number", "value", "okay"), [
    (MSR_SYSENTER_CS, 0x8, True), (0x277, 0x0102030401020304, True), (MSR_EFER, 0, True), (MSR_EFER, 1, False),
    (MSR_EFER, 1 << 11, False), (NO_MSR, 0, False)])
def test_the_full_policy_keeps_what_was_written(full: Stage, number: int, value: int, okay: bool) -> None:
    """EFER has no bit that this CPU announces."""
    before = rdmsr(full, number)
    assert wrmsr(full, number, value) == okay
    assert rdmsr(full, number) == (value if okay else before)


@pytest.mark.parametrize("policy", ["stage", "full"])
def test_the_hypercall_page(policy: str, request: pytest.FixtureRequest) -> None:
    stage: Stage = request.getfixturevalue(policy)
    assert wrmsr(stage, HYPERVISOR_MSR, stage.mfn(SPARE) << 12)
    assert stage.get(SPARE, 4096) == hypercall_page.contents()
    assert stage.get(SPARE + 32 * 5, 8) == bytes.fromhex("b805000000cd82c3")
    assert rdmsr(stage, HYPERVISOR_MSR) == 0


@pytest.mark.parametrize("frame", ["xen", "table", "beyond"])
def test_the_hypercall_page_goes_into_ordinary_pages_only(stage: Stage, full: Stage, frame: str) -> None:
    for each in (stage, full):
        mfn = {"xen": 1, "table": each.state.guest_table, "beyond": 0xFFFFF}[frame]
        before = bytes(each.ram.buffer)
        assert not wrmsr(each, HYPERVISOR_MSR, mfn << 12)
        changed = [n for n, (a, b) in enumerate(zip(before, each.ram.buffer, strict=True)) if a != b]
        assert all(each.maddr(CODE) <= n < each.maddr(CODE) + 2 for n in changed)


# -- Descriptor tables of the full policy

TABLE = bytes.fromhex("ff0778563412")
"""Limit 0x7FF, base 0x12345678."""


@pytest.mark.parametrize(("load", "kind", "store"), [
    ("0f0113", "sgdt", "0f010530000200"), ("0f011b", "sidt", "0f010d30000200")])
@pytest.mark.parametrize(("prefix", "base"), [("", 0x12345678), ("66", 0x345678)])
def test_a_table_register_reports_what_was_loaded(
        full: Stage, load: str, kind: str, store: str, prefix: str, base: int) -> None:
    """An operand size of 16 loads 24 bits of base (SDM 2, LGDT)."""
    real = full.regs.gdtr(), full.regs.idtr()
    full.put(DATA, TABLE)
    full.regs.gpr[Gpr.EBX] = DATA
    assert emulated(full, prefix + load)
    assert full.scanned(kind, store) == RETIRE
    assert full.get(DATA + 0x30, 6) == TABLE[:2] + base.to_bytes(4, "little")
    assert (full.regs.gdtr(), full.regs.idtr()) == real
    other = full.state.virtual.idtr if kind == "sgdt" else full.state.virtual.gdtr
    assert other != (base, 0x7FF)


def test_a_table_that_cannot_be_read(full: Stage) -> None:
    full.regs.gpr[Gpr.EBX] = NOWHERE
    before = full.state.virtual.gdtr
    assert full.gp("0f0113") == Inject(Vector.PF, 0, NOWHERE)
    assert full.state.virtual.gdtr == before


def test_invlpg_flushes(full: Stage) -> None:
    flushes = full.cpu.flushes
    full.regs.gpr[Gpr.EBX] = NOWHERE
    assert emulated(full, "0f013b"), "no access, so no fault (SDM 2, INVLPG)"
    assert full.cpu.flushes == flushes + 1


GATE = 0x0000EC00E0190000
"""A 32-bit call gate of DPL 3 to Xen's ring-1 code segment."""


def with_table(stage: Stage) -> Stage:
    """GDT: 1 data, 2 a call gate. Descriptors of an LDT or a TSS no guest can have: they are put there by hand."""
    gdt = stage.own_gdt(descriptor(0, 0xFFF, 0xB3), GATE)
    for index, access in enumerate((0x82, 0x02, 0x89, 0x09, 0x8B, 0x92), start=4):
        stage.ram.write(gdt + 8 * index, descriptor(0x1000, 0x67, access, 0).to_bytes(8, "little"))
    return stage


LDT, LDT_ABSENT, TSS, TSS_ABSENT, TSS_BUSY, DATA_DPL0 = (8 * n for n in range(4, 10))
LLDT, LTR = "0f00d0", "0f00d8"


@pytest.mark.parametrize(("code", "selector", "expected"), [
    (LLDT, LDT, RETIRE), (LLDT, LDT | 3, RETIRE), (LTR, TSS, RETIRE), (LTR, TSS | 1, RETIRE),
    (LLDT, 0, RETIRE), (LLDT, 3, RETIRE), (LTR, 0, GP0), (LTR, 2, GP0),
    (LLDT, TSS, Inject(Vector.GP, TSS)), (LLDT, 8, Inject(Vector.GP, 8)), (LLDT, 0x12, Inject(Vector.GP, 0x10)),
    (LLDT, DATA_DPL0, Inject(Vector.GP, DATA_DPL0)),
    (LTR, LDT, Inject(Vector.GP, LDT)), (LTR, TSS_BUSY, Inject(Vector.GP, TSS_BUSY)), (LTR, 9, Inject(Vector.GP, 8)),
    (LLDT, LDT | 4, Inject(Vector.GP, LDT | 4)), (LTR, TSS | 7, Inject(Vector.GP, TSS | 4)),
    (LLDT, 0x1003, Inject(Vector.GP, 0x1000)), (LTR, 0xFFF8, Inject(Vector.GP, 0xFFF8)),
    (LLDT, LDT_ABSENT, Inject(Vector.NP, LDT_ABSENT)), (LTR, TSS_ABSENT | 3, Inject(Vector.NP, TSS_ABSENT)),
])
def test_lldt_and_ltr(full: Stage, code: str, selector: int, expected: Outcome) -> None:
    """SDM 2, LLDT and LTR: of the GDT, of the right type, then present; LLDT takes a null selector, LTR does not."""
    with_table(full)
    full.regs.gpr[Gpr.EAX] = 0xABCD0000 | selector
    assert full.gp(code) == expected
    full.scanned(*(("sldt", "0f00c1") if code == LLDT else ("str", "0f00c9")))
    assert full.regs.gpr[Gpr.ECX] == (selector if expected == RETIRE else 0)
    virtual = full.state.virtual
    assert (virtual.tr if code == LLDT else virtual.ldtr) == 0, "the other one has not moved"


@pytest.mark.parametrize(("code", "access"), [(LLDT, 0x02), (LTR, 0x09)])
def test_an_ldt_has_neither(full: Stage, code: str, access: int) -> None:
    """Not even a descriptor that is right but for being not present, which would be #NP in the GDT."""
    full.put(SPARE, descriptor(0x1000, 0x67, access, 0).to_bytes(8, "little"))
    full.words(DATA, MmuExt.set_ldt, SPARE, 1)
    assert full.call(Hypercall.mmuext_op, DATA, 1, 0, xen.DOMID_SELF) == 0
    full.regs.gpr[Gpr.EAX] = 4
    assert full.gp(code) == Inject(Vector.GP, 4)


def test_ltr_from_memory(full: Stage) -> None:
    with_table(full)
    full.words(DATA, TSS | 0xABCD0000)
    full.regs.gpr[Gpr.EBX] = DATA
    assert emulated(full, "0f001b")
    assert full.state.virtual.tr == TSS


# -- What is said


@pytest.mark.parametrize(("code", "note"), [
    ("0f20d0", "cr2 reads 0x00000000"), ("0f22d0", "cr2 <- 0x00000012"), ("0f30", "msr 0x12345: write ignored")])
def test_notes(stage: Stage, code: str, note: str) -> None:
    stage.regs.gpr[Gpr.EAX], stage.regs.gpr[Gpr.ECX] = 0x12, NO_MSR
    stage.vcpu.listening = True
    assert emulated(stage, code)
    assert note in stage.vcpu.seen.notes

"""The machine: one CPU in SVM guest mode, its RAM, and one hook through which every exit comes.

The CPU enters guest mode once, by a VMRUN in a stub that no guest can reach; from then on every change of state is
written in place. Handlers run inside the exit hook: leaving the engine for each exit would cost ten times more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from enum import Enum
from itertools import islice

from harness.abi import svm
from harness.abi.x86 import (
    CR0_PE,
    CR4_PCE,
    EFER_SVME,
    IOPL,
    IOPL_SHIFT,
    MAX_INSTRUCTION_LENGTH,
    PAGE_SHIFT,
    PAGE_SIZE,
    TSS_IO_MAP_BASE,
    VM,
    Gpr,
    Seg,
    Vector,
)
from harness.code.decoder import Decoder, Instruction, TruncatedError
from harness.code.sensitive import classify, lock_is_illegal
from harness.domain.exits import Exit, Reason
from harness.domain.memory import LinearMemory, PageFaultError
from harness.domain.registers import SegmentCache
from harness.machine import layout
from harness.machine.engine import Engine, EngineError, error_text
from harness.machine.image import ImageError, MachineImage, present_unicorn
from harness.machine.nested import NestedTables, table_pages
from harness.machine.ram import Ram
from harness.machine.ram import private as private_memory
from harness.machine.scan import ALWAYS, BlockScan
from harness.machine.state import CpuState

__all__ = ["EngineError", "Handler", "ImageError", "Machine", "MachineImage", "RunEnd"]

Handler = Callable[[Exit], bool]
"""Handles one exit. True lets the CPU execute the instruction itself (a SCANNED one only)."""

PRIVATE = 0xF000_0000
"""Machine address of what belongs to the machine: above any RAM, and never in the nested tables."""
_STUB, _FIRST, _VMCB, _HSAVE, _IOPM, _MSRPM, _NESTED = (PRIVATE + n * PAGE_SIZE for n in (0, 1, 2, 3, 4, 7, 9))
_MOST_RAM = 2 << 30
_LONGEST_BLOCK = 512
"""Instructions that Unicorn translates at once."""

_VMRUN = b"\x0f\x01\xd8"
_HLT = b"\xf4"
_FLAT_CODE, _FLAT_DATA = 0x00CF9B00, 0x00CF9300
_EXCEPTION_FIRST, _EXCEPTION_LAST = svm.EXIT_EXCEPTION, svm.EXIT_EXCEPTION + 31
# What every exit is compared with: looking up a member of an enumeration or of a module costs as much as a call.
_EXIT_PF, _EXIT_UD = (svm.EXIT_EXCEPTION + int(vector) for vector in (Vector.PF, Vector.UD))
_EXIT_SWINT = svm.EXIT_SWINT
_EXCEPTION, _SOFTWARE_INT, _ERROR_CODE = Reason.EXCEPTION, Reason.SOFTWARE_INT, layout.ERROR_CODE >> 2

_REASONS: dict[int, Reason] = {
    svm.EXIT_RDTSC: Reason.RDTSC,
    svm.EXIT_RDPMC: Reason.RDPMC,
    svm.EXIT_CPUID: Reason.CPUID,
    svm.EXIT_SWINT: Reason.SOFTWARE_INT,
    svm.EXIT_HLT: Reason.HLT,
}
class RunEnd(Enum):
    """Why `run` came back."""

    STOPPED = "stopped"
    SLICE = "slice"


class Machine:
    """One CPU and `memory` bytes of RAM at machine address 0. Nothing is granted to the guest at first.

    Raises EngineError or layout.LayoutError when this build of Unicorn is not the one that the tables describe.
    """

    def __init__(self, memory: int, decoder: Decoder | None = None) -> None:
        if memory % PAGE_SIZE or not 0 < memory <= _MOST_RAM:
            raise ValueError(f"memory must be a multiple of 4096 up to 2 GiB, not {memory}")
        self.decoder = decoder or Decoder()
        self._engine = Engine()
        located = self._engine.locate()
        self._state = layout.view(located.state, layout.STATE_SIZE)
        self._pending = layout.view(located.cpu + layout.INTERRUPT_REQUEST, 4).cast("I")
        counters = layout.view(located.handle + layout.EMU_COUNTER, 16).cast("Q")
        self._counters = counters
        self.regs = CpuState(self._state, self._engine.eflags)
        self.ram = Ram(memory, self._engine.flush_code)
        self.linear = LinearMemory(self.ram)
        self._engine.map(0, self.ram.mapping)
        frames = memory >> PAGE_SHIFT
        self._private = private_memory(_NESTED - PRIVATE + table_pages(frames) * PAGE_SIZE)
        private = memoryview(self._private)
        self._engine.map(PRIVATE, self._private)
        self.nested = NestedTables(private[_NESTED - PRIVATE :], _NESTED, frames)
        self._exit_info_2 = private[_VMCB - PRIVATE + svm.VMCB_EXITINFO2 :][:8].cast("Q")
        self.exit = Exit()
        self._scan = BlockScan(self.decoder, self._hook_address, self._engine.unhook)
        self.regs.debug_loaded = self._set_breakpoints
        self._code_callback = self._engine.code_callback(self._on_code)
        self._engine.on_interrupt(self._on_interrupt)
        self._engine.on_block(self._on_block)
        self._handler: Handler = _nobody
        self._trouble: BaseException | None = None
        self._seen: int | None = None
        self._closed = False
        self._enter_guest_mode(private)
        self._intercept()

    # -- Entering guest mode, once

    def _enter_guest_mode(self, private: memoryview) -> None:
        """VMRUN into a HLT of our own; its exit leaves the CPU in guest mode, to be written in place from then on."""

        def put(address: int, data: bytes) -> None:
            private[address - PRIVATE : address - PRIVATE + len(data)] = data

        def vmcb(offset: int, form: str, *values: int) -> None:
            put(_VMCB + offset, struct.pack(form, *values))

        put(_STUB, _VMRUN)
        put(_FIRST, _HLT)
        put(_MSRPM, b"\xff" * 2 * PAGE_SIZE)
        vmcb(svm.VMCB_INTERCEPT_EXCEPTIONS, "<IQ", 0xFFFFFFFF, 1 << (svm.EXIT_HLT - 0x60))
        vmcb(svm.VMCB_IOPM, "<QQ", _IOPM, _MSRPM)
        for n in range(4):
            flags = 0xC9B if n == Seg.CS else 0xC93
            vmcb(svm.VMCB_SEGMENTS + 16 * n, "<HHIQ", 8 if n == Seg.CS else 16, flags, 0xFFFFFFFF, 0)
        vmcb(svm.VMCB_CR4, "<QQQ", 0, 0, 0x11)
        vmcb(svm.VMCB_DR7, "<QQ", 0x400, 0xFFFF0FF0)
        vmcb(svm.VMCB_RFLAGS, "<QQ", 2, _FIRST)
        self._engine.prepare_host(0x1800, _HSAVE)
        self.regs.enter(SegmentCache(8, 0, 0xFFFFFFFF, _FLAT_CODE), _STUB,
                        SegmentCache(16, 0, 0xFFFFFFFF, _FLAT_DATA), 0, 2)
        self.regs.gpr[Gpr.EAX] = _VMCB
        seen: list[int] = []

        def first_exit(exit_: Exit) -> bool:
            seen.append(exit_.reason)
            self.stop()
            return False

        self._handler = first_exit
        error = self._engine.start(_STUB)
        if error or seen != [Reason.HLT]:
            raise EngineError(f"VMRUN did not reach its guest (error {error}, exits {seen})")
        words = self.regs.words
        words[layout.HFLAGS >> 2] &= ~layout.HF_SVME
        words[layout.HFLAGS2 >> 2] |= layout.HF2_NPT
        self._state[layout.EFER : layout.EFER + 8] = bytes(8)
        self._state[layout.NESTED_CR3 : layout.NESTED_CR3 + 8] = struct.pack("<Q", self.nested.root)
        words[layout.NESTED_PG_MODE >> 2] = layout.NESTED_LEVELS_4
        for n in range(8):
            self.regs.gpr[n] = 0
        self._engine.flush_tlb()
        self._engine.flush_code()

    # -- What exits

    def _intercept(self) -> None:
        """Make exit what must: virtual time and CPUID are ours, and RDPMC and INT n the engine gets wrong.

        Whatever else is to be seen is found by the block scan (`watch`).
        """
        word = 1 << (svm.EXIT_SHUTDOWN - 0x60)
        for code in _REASONS:
            word |= 1 << (code - 0x60)
        struct.pack_into("<QI", self._state, layout.INTERCEPT, word, 0)
        struct.pack_into("<I", self._state, layout.INTERCEPT_EXCEPTIONS, 0xFFFFFFFF)

    def watch(self, kinds: Iterable[str]) -> None:
        """Let these kinds of instruction without an intercept exit too (code/sensitive.py names them)."""
        self._scan.watch(kinds)
        self.ram.forget_code()

    # -- Running

    def run(self, handler: Handler, count: int = 0, *, seen: bool = False) -> RunEnd:
        """Run the guest from where it stands until `stop`, or until `count` instructions have started.

        `handler` is called for each exit, inside the engine. An exception in it stops the run and is raised here.
        `seen`: the first instruction was an exit already, and was left to the CPU.
        """
        self._handler, self._trouble = handler, None
        self._seen = self.regs.linear_eip if seen else None
        if count and not self._counters[1]:
            self.ram.forget_code()
        self._look_ahead()
        self.regs.settle_flags()
        error = self._engine.start(self.regs.eip, count)
        self._raise_trouble()
        if error:
            raise EngineError(f"the engine stopped: {error_text(error)}")
        counter, limit = self._counters
        return RunEnd.SLICE if limit and counter > limit else RunEnd.STOPPED

    def _raise_trouble(self) -> None:
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    @property
    def executed(self) -> int:
        """Instructions started since the last `run` with a count; 0 without one."""
        counter, limit = self._counters
        return min(counter, limit) if limit else 0

    def count_on(self, count: int) -> None:
        """Let the present counted run end after so many more instructions. For an exit's handler."""
        self._counters[1] = self._counters[0] + count

    def stop(self) -> None:
        """Make `run` return after the present exit. May be called from another thread."""
        self._engine.stop()

    def _look_ahead(self) -> None:
        """Scan the first block by hand: it has no callback if nothing ran before it in this run (observed on 2.1.4)."""
        eip = self.regs.linear_eip
        try:
            code = self.linear.fetch(eip, PAGE_SIZE)
        except PageFaultError:
            return
        end = self._scan.reach(eip, code)
        if end and self._scan.look(eip, code[: self._first_block(eip, code, end)]):
            self.ram.forget_code()

    def _first_block(self, eip: int, code: bytes, end: int) -> int:
        """Bytes of the block that begins here, as far as they matter: up to `end`."""
        at = 0
        for instruction in islice(self.decoder.decode_run(eip, code), _LONGEST_BLOCK):
            at += instruction.length
            if instruction.is_branch or at >= end:
                break
        return min(at + MAX_INSTRUCTION_LENGTH, len(code))

    # -- The hooks

    def _on_interrupt(self, number: int) -> None:
        try:
            code = number - 0x100
            exit_ = self.exit
            if _EXCEPTION_FIRST <= code <= _EXCEPTION_LAST:
                exit_.reason = _EXCEPTION
                exit_.vector = code - _EXCEPTION_FIRST
                exit_.length = 0
                exit_.error_code = self.regs.words[_ERROR_CODE]
                if code == _EXIT_PF:
                    exit_.address = self._exit_info_2[0] & 0xFFFFFFFF
                elif code == _EXIT_UD or self.regs.cr4 & CR4_PCE:
                    self._tell_apart(exit_)
            elif code == _EXIT_SWINT:
                self._software_interrupt(exit_)
            else:
                self._intercepted(exit_, code)
            self._handler(exit_)
        except BaseException as trouble:  # ctypes would print and lose it; run() raises it
            self._keep(trouble)

    def _keep(self, trouble: BaseException) -> None:
        self._trouble = trouble
        self._engine.stop()

    def _bytes_at_eip(self, size: int) -> bytes:
        try:
            return self.linear.fetch(self.regs.linear_eip, size)
        except PageFaultError:
            return b""

    def _software_interrupt(self, exit_: Exit) -> None:
        """INT n, INT3 and INTO share one intercept; EIP is at the instruction."""
        exit_.reason = _SOFTWARE_INT
        try:
            code = self.linear.fetch(self.regs.linear_eip, 2)
        except PageFaultError:
            code = b""
        if code[:1] == b"\xcd":
            exit_.vector, exit_.length = code[1], 2
            return
        instruction = self._decode_here()
        if instruction is None:
            raise EngineError(f"a software interrupt at {self.regs.eip:#x} that does not decode")
        exit_.length = instruction.length
        exit_.vector = {0xCC: Vector.BP, 0xCE: Vector.OF}.get(instruction.opcode, instruction.immediate or 0)

    def _decode_here(self) -> Instruction | None:
        eip = self.regs.linear_eip
        try:
            return self.decoder.decode(eip, self._bytes_at_eip(MAX_INSTRUCTION_LENGTH))
        except TruncatedError:
            return None

    def _tell_apart(self, exit_: Exit) -> None:
        """INT1 (F1) arrives as #UD; RDPMC with CR4.PCE set as #GP, which is the wrong way round (observed on 2.1.4)."""
        code = self._bytes_at_eip(MAX_INSTRUCTION_LENGTH)
        instruction = self._decode_here()
        if exit_.vector == Vector.UD and instruction is not None and instruction.opcode == 0xF1:
            exit_.vector = Vector.DB
            exit_.length = instruction.length
        elif exit_.vector == Vector.GP and code[:2] == b"\x0f\x33":
            exit_.reason = Reason.RDPMC

    def _intercepted(self, exit_: Exit, code: int) -> None:
        exit_.reason = _REASONS.get(code, Reason.OTHER)
        exit_.vector = code
        if code == svm.EXIT_RDPMC and self.regs.cpl and not self.regs.cr4 & CR4_PCE:
            _exception(exit_, Vector.GP)
        elif code == svm.EXIT_RDTSC and self._bytes_at_eip(3)[-1:] == b"\xf9":
            exit_.reason = Reason.RDTSCP
        elif code == svm.EXIT_NESTED_PAGE_FAULT:
            exit_.reason = Reason.NESTED_FAULT
            exit_.address = self._exit_info_2[0]

    def _hook_address(self, address: int) -> int:
        return self._engine.hook_code(self._code_callback, address)

    def _on_block(self, address: int, size: int) -> None:
        try:
            try:
                code = self.linear.read(address, size)
                here = min(size, PAGE_SIZE - (address & 0xFFF))
                self.ram.mark_code(self.linear.translate(address), here)
                if here < size:
                    self.ram.mark_code(self.linear.translate(address + here & 0xFFFFFFFF), size - here)
            except PageFaultError:
                # The CPU still has a translation that the page tables no longer give. It may drop one at any time.
                self._engine.flush_tlb()
                self._translate_again(address)
                return
            if self._scan.look(address, code):
                self._translate_again(address)
        except BaseException as trouble:  # ctypes would print and lose it; run() raises it
            self._keep(trouble)

    def _translate_again(self, address: int) -> None:
        self._engine.flush_code()
        self._engine.force_eip(address - self.regs.base(Seg.CS) & 0xFFFFFFFF)

    def _on_code(self, address: int) -> None:
        """Before a hooked instruction. The bytes decide: the address may hold something else by now."""
        seen, self._seen = self._seen, None
        if seen == address:
            return
        try:
            instruction = self._decode_here()
            exit_ = self.exit
            if address in self._scan.breakpoints and self._breakpoint(address):
                _exception(exit_, Vector.DB)
                exit_.length = 0
            elif instruction is None:
                if not lock_is_illegal(self._bytes_at_eip(MAX_INSTRUCTION_LENGTH)):
                    return
                _exception(exit_, Vector.UD)
            else:
                kind = classify(instruction)
                if kind not in self._scan.kinds:
                    return
                self._scanned(exit_, kind or "", instruction)
            if not self._handler(exit_):
                self._engine.force_eip(self.regs.eip)
        except BaseException as trouble:  # ctypes would print and lose it; run() raises it
            self._keep(trouble)

    def _set_breakpoints(self) -> None:
        """Watch the addresses that DR7 enables for execution (R/W bits 0). Data breakpoints never fire."""
        before, self._scan.breakpoints = self._scan.breakpoints, frozenset(self._enabled().values())
        if self._scan.breakpoints - before:
            self.regs.take_resume_flag()
            self.ram.forget_code()

    def _enabled(self) -> dict[int, int]:
        """Address of each execution breakpoint, by its number."""
        dr7 = self.regs.debug(7)
        return {n: self.regs.debug(n) for n in range(4) if dr7 >> 2 * n & 3 and not dr7 >> 16 + 4 * n & 3}

    def _breakpoint(self, address: int) -> bool:
        """Whether the instruction here is to fault, with DR6 saying why. RF lets it run (SDM 3 section 17.3.1.1)."""
        if self.regs.take_resume_flag():
            return False
        hit = sum(1 << n for n, at in self._enabled().items() if at == address)
        self.regs.set_debug(6, self.regs.debug(6) | hit)
        return True

    def _scanned(self, exit_: Exit, kind: str, instruction: Instruction) -> None:
        """What silicon would do first with an instruction that the engine does not check."""
        exit_.reason, exit_.kind, exit_.length = Reason.SCANNED, kind, instruction.length
        if kind == "io" and not self._io_allowed(instruction):
            _exception(exit_, Vector.GP)
        elif kind in ("syscall", "sysret", "random", "xsetbv"):
            _exception(exit_, Vector.UD)
        elif kind in ("sysenter", "sysexit"):
            # IA32_SYSENTER_CS is 0: nobody offers a fast system call (SDM 2, SYSENTER).
            _exception(exit_, Vector.GP)

    def _io_allowed(self, instruction: Instruction) -> bool:
        """CPL against IOPL, then the TSS's bitmap (SDM 1 section 18.5.2)."""
        regs = self.regs
        flags = regs.eflags
        if not regs.cr0 & CR0_PE or (regs.cpl <= (flags & IOPL) >> IOPL_SHIFT and not flags & VM):
            return True
        immediate = instruction.immediate
        port = regs.gpr[Gpr.EDX] & 0xFFFF if immediate is None else immediate
        size = 1 if instruction.opcode & 1 == 0 else instruction.operand_size // 8
        tr = regs.tr()
        try:
            offset = int.from_bytes(self.linear.read(tr.base + TSS_IO_MAP_BASE, 2), "little") + port // 8
            if offset + 1 > tr.limit:
                return False
            bits = int.from_bytes(self.linear.read(tr.base + offset, 2), "little") >> port % 8
        except PageFaultError:
            return False
        return bits & (1 << size) - 1 == 0

    # -- Address spaces

    def load_cr3(self, root: int) -> None:
        """Use another page directory (machine address), as MOV to CR3 does."""
        self.regs.cr3 = root
        self.linear.load_root(root)
        self._engine.flush_tlb()

    def flush_tlb(self) -> None:
        """Forget translated addresses, here and in the CPU: after a mapping was removed or restricted."""
        self.linear.flush()
        self._engine.flush_tlb()

    def invalidate(self, linear: int) -> None:
        """Forget the translation of one page. The engine can only forget them all."""
        self.linear.forget(linear)
        self._engine.flush_tlb()

    # -- Saving and going back

    def save(self) -> MachineImage:
        """All that the guest can tell of this machine, copied. Possible in an exit's handler as well as between runs.

        The TLB is not part of it, and is flushed here: going on and coming back are the same.
        """
        self.flush_tlb()
        state = bytearray(self._state)
        for begin, end in layout.OF_THE_MACHINE:
            state[begin:end] = bytes(end - begin)
        return MachineImage(present_unicorn(), self.ram.size, bytes(state), self._pending[0], self.linear.root,
                            self.nested.flags(), tuple(sorted(self._scan.kinds - ALWAYS)), self.ram.contents())

    def load(self, image: MachineImage) -> None:
        """Become what was saved, here or in another process. Only between runs. Raises ImageError."""
        image.check(self.ram.size)
        self._scan.watch(image.kinds)
        begin = 0
        for own, end in (*layout.OF_THE_MACHINE, (layout.STATE_SIZE, layout.STATE_SIZE)):
            self._state[begin:own] = image.state[begin:own]
            begin = end
        words = self.regs.words
        words[layout.EFER >> 2] &= ~EFER_SVME
        words[layout.HFLAGS >> 2] = words[layout.HFLAGS >> 2] & ~layout.HF_SVME | layout.HF_GUEST
        self._pending[0] = image.pending
        self.nested.set_flags(image.frames)
        self.ram.replace(image.ram)
        self.linear.load_root(image.root)
        self._engine.flush_tlb()
        self._set_breakpoints()

    def close(self) -> None:
        """Give the engine back. Registers and RAM can still be read; the machine cannot run."""
        if not self._closed:
            self._closed = True
            self.regs.detach()
            self._engine.close()


def _exception(exit_: Exit, vector: int, error_code: int = 0) -> None:
    exit_.reason, exit_.vector, exit_.error_code = Reason.EXCEPTION, vector, error_code


def _nobody(_exit: Exit) -> bool:
    raise EngineError("an exit, and nobody to handle it")



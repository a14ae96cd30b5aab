"""The loop: what exited, who handles it, what came of it, record it.

Everything between two entries of the guest happens in `Domain._on_exit`, inside the engine's exit hook. The rest of
this file is what surrounds it: building the domain, slices of counted instructions, waiting, and the verdict.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

from harness.abi.x86 import TF, Seg, Vector
from harness.abi.xen import Errno
from harness.code.decoder import Decoder, Instruction, TruncatedError
from harness.devices.pit import Speaker
from harness.domain.clock import EXIT_PRICE_NS, INSTRUCTION_PRICE_NS, Clock
from harness.domain.exits import Exit, Reason
from harness.domain.memory import PageFaultError
from harness.domain.outcome import Block, Crash, Inject, Native, Outcome, Resume, Retire, Shutdown
from harness.domain.record import CrashReport, ExitRecord, RunResult, Verdict
from harness.domain.registers import snapshot as register_values
from harness.guest import Guest, GuestError
from harness.machine import EngineError, Machine, RunEnd
from harness.machine.watchdog import Watchdog
from harness.pv import boot, bounce, segments, silent, traps
from harness.pv import events as pv_events
from harness.pv.hypercalls import Result, Row
from harness.pv.state import Domain as PvDomain
from harness.pv.state import Seen, Vcpu
from harness.pv.time_record import update_time

MODES = ("pv",)
"""What `run` can do today; the others are skipped with a reason."""
LAST_EXITS = 16
_CODE_AROUND = 32
_STACK_WORDS = 16
_NO_LIMIT = 1 << 62

Watcher = Callable[[ExitRecord], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a domain's loop is, as plain data.

    exits, counts, insns: so far. last: the last exits, oldest first. step_flag: the guest's own TF while one
    instruction is stepped, else None. native: the present instruction was an exit already and is left to the CPU.
    end: verdict and reason, once there is one.
    """

    exits: int
    counts: dict[str, int]
    insns: int
    last: tuple[ExitRecord, ...]
    step_flag: int | None
    native: bool
    end: tuple[Verdict, str] | None


class Domain:
    """A guest, built and ready to run. Options not given are those of the guest's head.

    memory: bytes. max_exits, max_insns: limits, None for none. timeout: wall-clock seconds, for accidents only.
    Raises GuestError if the guest does not fit into its memory.
    """

    def __init__(self, guest: Guest, *, policy: str | None = None, audit: bool | None = None,
                 memory: int | None = None, cmdline: str | None = None, modules: Sequence[Path] | None = None,
                 max_exits: int | None = None, max_insns: int | None = None, timeout: float | None = 60.0) -> None:
        options = guest.run
        self.guest, self.mode = guest, "pv"
        self._max_exits = max_exits or options.max_exits or _NO_LIMIT
        self._max_insns = max_insns or options.max_insns
        self._timeout = timeout
        frames = boot.divide(memory or options.memory)
        decoder = Decoder()
        self.machine = Machine(frames.total << 12, decoder)
        self.clock = Clock()
        domain = PvDomain(guest.name, self.clock, Speaker(self.clock))
        self.vcpu = Vcpu(domain, self.machine, policy=policy or options.policy,
                         audit=options.audit if audit is None else audit, decoder=decoder)
        files = options.modules if modules is None else modules
        try:
            boot.build(self.vcpu, guest.image, frames, options.cmdline if cmdline is None else cmdline,
                       [path.read_bytes() for path in files])
        except boot.BootError as problem:
            raise GuestError(f"{guest.path}: {problem}") from problem
        except OSError as problem:
            raise GuestError(f"{problem.filename}: {problem.strerror}") from problem
        self.machine.watch((silent.AUDIT_KINDS if self.vcpu.audit else frozenset())
                           | (silent.FULL_KINDS if self.vcpu.full else frozenset()))
        self.counts: dict[str, int] = {}
        self.exits = 0
        self._watchers: list[Watcher] = []
        self._last: deque[tuple[Any, ...] | ExitRecord] = deque(maxlen=LAST_EXITS)
        self._end: tuple[Verdict, str] | None = None
        self._insns = 0
        self._executed = 0
        self._slice_end: int | None = None
        self._step_flag: int | None = None
        self._native = False
        self._pausing = False

    # -- Watching and changing

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` with a record of each exit."""
        self._watchers.append(watcher)
        self.vcpu.listening = True

    def emulate(self, opcode: int, emulator: Callable[[Vcpu, Instruction], Outcome]) -> None:
        """Emulate a privileged instruction by a function of one's own: 0x0F06 is CLTS. It replaces Xen's, or adds."""
        self.vcpu.emulators[opcode] = emulator

    def hypercall(self, number: int, name: str, handler: Callable[..., Result], arguments: int) -> None:
        """Answer a hypercall by a function of one's own, with so many argument registers (0 to 5)."""
        rows = list(self.vcpu.rows)
        rows[number] = Row(name, handler, arguments)
        self.vcpu.rows = rows

    # -- Running

    def run(self) -> RunResult:
        """Run the guest to its end, or until `pause`; then `run` again goes on. KeyboardInterrupt passes through."""
        machine = self.machine
        self._pausing = False
        with Watchdog(machine.stop, self._timeout) as watchdog:
            try:
                if not self.exits:
                    self._enter()
                while self._end is None and not self._pausing:
                    native, self._native = self._native, False
                    count = self._next_slice(native)
                    end = machine.run(self._on_exit, count, seen=native)
                    self._account()
                    if end is RunEnd.SLICE:
                        self._native = False
                        self._slice_over()
                    elif self._end is None and watchdog.expired:
                        self._finish(Verdict.TIMEOUT, f"still running after {self._timeout} seconds")
            except EngineError as problem:
                self._finish(Verdict.CRASH, f"the engine gave up: {problem}")
        return self.result()

    def pause(self) -> None:
        """Make `run` return after the present exit. For a watcher."""
        self._pausing = True

    def progress(self) -> Progress:
        """How far the loop is. Good after an exit: in a watcher, or between runs."""
        return Progress(self.exits, dict(self.counts), self._insns, self._last_records(), self._step_flag,
                        self._native, self._end)

    def go_back(self, progress: Progress) -> None:
        """Let the loop be as far as it was. Only between runs; the rest of the domain is `Snapshot`'s."""
        self.exits, self.counts, self._insns = progress.exits, dict(progress.counts), progress.insns
        self._last = deque(progress.last, maxlen=LAST_EXITS)
        self._step_flag, self._native, self._end = progress.step_flag, progress.native, progress.end
        self._executed = 0

    def _next_slice(self, native: bool) -> int:
        """How many instructions to count from here. One that is left to the CPU was counted when it exited."""
        self._slice_end = self.clock.deadline
        remaining = self._remaining()
        self._executed = int(native and remaining > 0)
        return remaining + self._executed

    def _remaining(self) -> int:
        """Instructions up to the timer or the budget; 0 without either, for full speed."""
        limits = []
        if self.clock.deadline is not None:
            limits.append(max((self.clock.deadline - self.clock.now) // INSTRUCTION_PRICE_NS, 1))
        if self._max_insns is not None:
            limits.append(max(self._max_insns - self._insns, 1))
        return min(limits, default=0)

    def _account(self) -> None:
        """Let time and the budget move by the instructions counted since the last look."""
        executed = self.machine.executed
        self._insns += executed - self._executed
        self.clock.now += (executed - self._executed) * INSTRUCTION_PRICE_NS
        self._executed = executed

    def _slice_over(self) -> None:
        """A counted slice ended: the budget is spent, or a timer is due."""
        if self._max_insns is not None and self._insns >= self._max_insns:
            self._finish(Verdict.TIMEOUT, f"limit of {self._max_insns} instructions reached")
            return
        if self._step_flag is not None:
            # One instruction more, and its #DB: nothing is delivered before.
            return
        vcpu = self.vcpu
        vcpu.seen = seen = Seen(kind="slice", handler=pv_events.fire_timer)
        eip, cpl = vcpu.regs.eip, vcpu.regs.cpl
        self.exits += 1
        self.counts["slice"] = self.counts.get("slice", 0) + 1
        self._enter()
        self._last.append((self.exits, "slice", eip, cpl, None, seen.handler, None, "", self.clock.now))
        if self._watchers:
            self._tell(seen, eip, cpl, b"", "", None)

    def _on_exit(self, exit_: Exit) -> bool:
        vcpu, clock, seen = self.vcpu, self.clock, self.vcpu.seen
        regs = vcpu.regs
        if self._step_flag is not None and self._stepped(exit_):
            return False
        self.exits = n = self.exits + 1
        clock.now += EXIT_PRICE_NS
        counting = self._slice_end is not None or self._max_insns is not None
        if counting:
            self._account()
        eip, cpl = regs.eip, regs.cpl
        seen.handler = seen.instruction = None
        if vcpu.listening:
            self._prepare(seen, eip)

        outcome = traps.handle(vcpu, exit_)

        kind = seen.kind
        counts = self.counts
        counts[kind] = counts.get(kind, 0) + 1
        instruction = vcpu.seen.instruction
        self._last.append((n, kind, eip, cpl, instruction, seen.handler, outcome, exit_.vector, clock.now))
        native = False
        if isinstance(outcome, Retire):
            assert instruction is not None
            regs.eip = eip + instruction.length
        elif not isinstance(outcome, Resume):
            native = self._apply(outcome)
        self._native = native
        if not native and (vcpu.attention or clock.deadline is not None):
            self._enter()
        if vcpu.listening:
            self._tell(seen, eip, cpl, *self._told, outcome)
        if n >= self._max_exits and self._end is None:
            self._finish(Verdict.TIMEOUT, f"limit of {n} exits reached")
        if counting or self._end is not None or self._pausing or clock.deadline != self._slice_end:
            self._stop_if_due(counting)
        return native

    def _stop_if_due(self, counting: bool) -> None:
        """Leave the engine for what only the loop can do; else let the slice end with the timer, exits included."""
        if self._end is not None or self._pausing or self.clock.deadline != self._slice_end:
            self.machine.stop()
        elif counting:
            self.machine.count_on(self._remaining())

    def _apply(self, outcome: Outcome) -> bool:
        """Do what an outcome says. True if the CPU is to execute the instruction itself."""
        match outcome:
            case Inject():
                self._crash_if(bounce.deliver_trap(self.vcpu, outcome))
            case Native():
                return True
            case Resume() | Retire():
                pass
            case Block():
                pass
            case Shutdown(reason):
                verdict = Verdict.FAILURE if reason == "crash" else Verdict.SUCCESS
                self._finish(verdict, f"shutdown: {reason}")
            case Crash():
                self._crash_if(outcome)
            case _:
                assert_never(outcome)
        return False

    def _crash_if(self, crash: Crash | None) -> None:
        if crash is not None:
            self._finish(Verdict.CRASH, crash.reason)

    def _finish(self, verdict: Verdict, reason: str) -> None:
        if self._end is None:
            self._end = verdict, reason

    # -- On the way back into the guest

    def _enter(self) -> None:
        """Let timers fire, wait if the vCPU is blocked, deliver what is pending."""
        vcpu = self.vcpu
        if self.clock.deadline is not None and self.clock.expired():
            pv_events.fire_timer(vcpu)
        if self._end is not None:
            return
        if vcpu.state.blocked:
            self._wait()
        if vcpu.reload and self._end is None:
            vcpu.reload = False
            if segments.stale(vcpu) is not None:
                self._crash_if(bounce.deliver_failsafe(vcpu))
        if vcpu.upcall_due and self._end is None:
            if vcpu.shadow_next:
                self._step()
            else:
                self._crash_if(bounce.deliver_upcall(vcpu))
        vcpu.shadow_next = False

    def _wait(self) -> None:
        """Skip idle time until something wakes the vCPU; if nothing can, that is the end."""
        state, clock = self.vcpu.state, self.clock
        started = clock.now
        while state.blocked:
            if self.vcpu.upcall_due:
                state.blocked = False
            elif state.poll_deadline is not None and (clock.deadline is None or state.poll_deadline <= clock.deadline):
                clock.now = max(clock.now, state.poll_deadline)
                state.blocked, state.polling = False, ()
            elif not state.down and clock.jump():
                pv_events.fire_timer(self.vcpu)
            else:
                how = "with events masked" if self.vcpu.mask else "with no timer set"
                self._finish(Verdict.ERROR, f"blocked {how}: nothing can wake it")
                break
        state.poll_deadline = None
        state.waited += clock.now - started
        update_time(self.vcpu)

    def _step(self) -> None:
        """Run one instruction in the shadow of STI, by the trap flag, before the event is delivered."""
        regs = self.vcpu.regs
        self._step_flag = regs.eflags & TF
        regs.eflags |= TF

    def _stepped(self, exit_: Exit) -> bool:
        """Undo the trap flag. True if the exit was nothing but its #DB."""
        regs = self.vcpu.regs
        own, self._step_flag = self._step_flag, None
        if not own:
            regs.eflags &= ~TF
        if exit_.reason is Reason.EXCEPTION and exit_.vector == Vector.DB and not own:
            self._account()
            self._enter()
            self._stop_if_due(self._slice_end is not None or self._max_insns is not None)
            return True
        return False

    # -- Telling

    def _prepare(self, seen: Seen, eip: int) -> None:
        """Keep the instruction's bytes and text from before it is handled."""
        seen.raised, seen.call, seen.result = "", None, None
        seen.notes = []
        base = self.vcpu.regs.base(Seg.CS)
        try:
            window = self.vcpu.linear.fetch((eip + base) & 0xFFFFFFFF)
            decoded = self.vcpu.decoder.decode((eip + base) & 0xFFFFFFFF, window)
        except (PageFaultError, TruncatedError):
            window, decoded = b"", None
        self._told = (decoded.raw, decoded.text) if decoded else (window[:4], "(bad)" if window else "(unreadable)")

    def _tell(self, seen: Seen, eip: int, cpl: int, code: bytes, text: str, outcome: Outcome | None) -> None:
        action = seen.handler.__name__ if seen.handler else ""
        if seen.call is not None:
            name, arguments = seen.call
            action = f"do_{name}({', '.join(f'{a:#x}' for a in arguments)})"
        record = ExitRecord(self.exits, seen.kind, eip, cpl, code, text, seen.raised or seen.kind, action,
                            self._came_of(seen, outcome), tuple(seen.notes), self.clock.now)
        for watcher in self._watchers:
            watcher(record)

    def _came_of(self, seen: Seen, outcome: Outcome | None) -> str:
        match outcome:
            case None:
                return "the timer fires"
            case Resume() if seen.call is not None and seen.result is not None:
                return f"= {seen.result:#x}" if seen.result >= 0 else f"= -{_errno_name(-seen.result)}"
            case Resume():
                return f"goes on at {self.vcpu.regs.eip:#010x}"
            case Retire():
                return "retired"
            case Native():
                return "left to the CPU"
            case Inject():
                handler = self.vcpu.state.traps[outcome.vector]
                where = f"{handler.address:#010x}" if handler.address else "nowhere"
                return f"{bounce.describe(outcome)} bounced to {where}"
            case Block():
                return "waits"
            case Shutdown(reason):
                return f"shuts down: {reason}"
            case Crash(reason):
                return f"crashes: {reason}"
            case _:
                assert_never(outcome)

    def _last_records(self) -> tuple[ExitRecord, ...]:
        records = []
        for row in self._last:
            if isinstance(row, ExitRecord):
                records.append(row)
                continue
            n, kind, eip, cpl, instruction, handler, outcome, _vector, now = row
            code, text = (instruction.raw, instruction.text) if instruction else (b"", "")
            result = type(outcome).__name__.lower() if outcome is not None else ""
            records.append(ExitRecord(n, kind, eip, cpl, code, text, kind, handler.__name__ if handler else "",
                                      result, (), now))
        return tuple(records)

    def _crash_report(self) -> CrashReport:
        vcpu = self.vcpu
        regs = vcpu.regs
        eip = regs.linear_eip
        start = self._code_start(eip)
        stack = (regs.gpr[4] + regs.base(Seg.SS)) & 0xFFFFFFFF
        words = []
        for n in range(_STACK_WORDS):
            try:
                words.append(vcpu.linear.u32((stack + 4 * n) & 0xFFFFFFFF))
            except PageFaultError:
                break
        return CrashReport(register_values(regs), start, self._readable(start, eip + _CODE_AROUND - start),
                           tuple(words), self._last_records())

    def _code_start(self, eip: int) -> int:
        """Where to begin to disassemble: at an instruction known to begin there, if the image knows its source."""
        lines = [line.address for line in self.guest.image.lines if eip - _CODE_AROUND <= line.address <= eip]
        return min(lines, default=eip)

    def _readable(self, linear: int, size: int) -> bytes:
        try:
            return self.vcpu.linear.fetch(linear, size)
        except PageFaultError:
            return b""

    def result(self) -> RunResult:
        """What the run came to so far."""
        verdict, reason = self._end or (Verdict.TIMEOUT, "not finished")
        ended_badly = verdict in (Verdict.CRASH, Verdict.TIMEOUT, Verdict.ERROR)
        found = RunResult(
            guest=self.guest.name, mode=self.mode, verdict=verdict, reason=reason,
            console=self.vcpu.domain.console.decode("latin-1"), exits=dict(sorted(self.counts.items())),
            hypercalls=dict(sorted(self.vcpu.domain.hypercalls.items())), registers=register_values(self.vcpu.regs),
            audit=tuple(self.vcpu.findings.values()), crash=self._crash_report() if ended_badly else None,
            time_ns=self.clock.now)
        expectation = self.guest.expect[self.mode]
        return replace(found, differences=tuple(expectation.differences(found)))


def _errno_name(number: int) -> str:
    return Errno(number).name if number in Errno._value2member_map_ else str(number)


def run(guest: Guest, *, mode: str | None = None, policy: str | None = None, audit: bool | None = None,
        memory: int | None = None, cmdline: str | None = None, modules: Sequence[Path] | None = None,
        max_exits: int | None = None, max_insns: int | None = None, timeout: float | None = 60.0,
        on_exit: Watcher | None = None) -> RunResult:
    """Build a guest's domain and run it to its end, in its first mode or the one given.

    `on_exit` hears of each exit. Raises GuestError for what is wrong with the guest's file.
    """
    mode = mode or guest.modes[0]
    if mode not in MODES:
        return RunResult(guest.name, mode, Verdict.SKIP, f"mode {mode} is not there yet")
    domain = Domain(guest, policy=policy, audit=audit, memory=memory, cmdline=cmdline, modules=modules,
                    max_exits=max_exits, max_insns=max_insns, timeout=timeout)
    if on_exit is not None:
        domain.watch(on_exit)
    try:
        return domain.run()
    finally:
        domain.machine.close()


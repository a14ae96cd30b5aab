"""Records of an invented run, for tests of what is made of them."""

from harness.domain.image import Image, Line, Segment
from harness.domain.record import AuditFinding, CrashReport, ExitRecord, RunResult, Verdict

CLTS = ExitRecord(
    n=7,
    kind="gp",
    eip=0x100012,
    cpl=1,
    bytes=b"\x0f\x06",
    text="clts",
    raised="#GP(0)",
    action="emulate_clts",
    result="retired: TS 1 -> 0",
    time_ns=7000,
)

HYPERCALL = ExitRecord(
    n=8,
    kind="hypercall",
    eip=0x100014,
    cpl=1,
    bytes=b"\xcd\x82",
    text="int 0x82",
    raised="int 0x82",
    action="do_console_io",
    result="eax = 0",
    notes=("wrote 6 bytes", "\x1b[2J"),
    time_ns=8000,
)

FINDING = AuditFinding(0x100020, 1, b"\x0f\x01\x01", "sgdt [ecx]", "the hypervisor's GDT", "do not read it")

GOOD = RunResult(
    guest="clts",
    mode="pv",
    verdict=Verdict.SUCCESS,
    reason="shutdown: poweroff",
    console="hello\n",
    exits={"gp": 1, "hypercall": 2},
    hypercalls={"sched_op": 1, "console_io": 1},
    registers={"eax": 0, "eip": 0x100030},
    audit=(FINDING,),
    time_ns=8000,
)

IMAGE = Image(
    segments=(Segment(0x100000, b"", 0x40),),
    entry=0x100000,
    symbols={"start": 0x100000, "fault": 0x100010},
    lines=(
        Line(0x100010, 2, "clts.asm", 10, "        mov eax, ebx"),
        Line(0x100012, 2, "clts.asm", 11, "        clts            ; traps"),
        Line(0x100014, 2, "clts.asm", 12, "        int 0x82"),
    ),
)

CRASHED = RunResult(
    guest="clts",
    mode="pv",
    verdict=Verdict.CRASH,
    reason="no handler for #GP(0)",
    exits={"gp": 1},
    crash=CrashReport(
        registers={"eax": 1, "ebx": 2, "ecx": 3, "edx": 4, "esp": 0x102000, "eip": 0x100012},
        code_address=0x100010,
        code=b"\x89\xd8\x0f\x06\xcd\x82",
        stack=(0x100014, 0xDEADBEEF),
        last=(CLTS, HYPERCALL),
    ),
    differences=("verdict: crash instead of success",),
)

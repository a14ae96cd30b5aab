from harness.report.layout import at_stops, one_line, seconds, table, visible


def test_an_escape_sequence_is_shown_not_sent():
    assert visible("\x1b[31mred\x07") == "\\x1b[31mred\\x07"


def test_newline_and_tab_stay():
    assert visible("a\tb\n") == "a\tb\n"


def test_every_c0_and_c1_control_is_escaped():
    controls = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"]
    assert all(shown.startswith("\\") and shown.isascii() for shown in map(visible, controls))


def test_what_reorders_text_is_escaped():
    assert visible("a\u202eb\ud800") == "a\\u202eb\\ud800"


def test_printable_text_of_any_language_stays():
    assert visible("Größe [bold]λ[/bold]") == "Größe [bold]λ[/bold]"


def test_one_line_keeps_to_one_line():
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_a_long_cell_pushes_its_neighbour_and_no_further():
    assert at_stops(("a", "bb", "c"), (0, 4, 8)) == "a   bb  c"
    assert at_stops(("a", "bbbbb", "c", "d"), (0, 4, 8, 14)) == "a   bbbbb c   d"


def test_empty_cells_leave_their_columns_empty():
    assert at_stops(("a", "", "c"), (0, 4, 8)) == "a       c"


def test_a_table_is_as_wide_as_its_cells():
    assert table([("guest", "n"), ("x", "100")], right=frozenset({1})) == ["guest    n", "x      100"]


def test_virtual_time_for_people():
    assert [seconds(time) for time in (0, 999, 1500, 2_000_000, 3_000_000_000)] == [
        "0 ns",
        "999 ns",
        "1.500 us",
        "2.000 ms",
        "3.000 s",
    ]

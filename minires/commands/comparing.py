"""compare."""

import html
import sys
from pathlib import Path

from minires.commands import common
from minires.console import err, out, print_json
from minires.errors import DataError, MiniresError

FILMS = 4  # side by side in a page


def compare(args) -> int:
    from minires.comparison import compare as put_together
    from minires.instruments.style import save_picture

    found = put_together(args.run_folders)
    for line in found.left_out:
        err.print(f"left out: {line}", style="red")
    if args.json:
        print_json(found.as_dict())
    else:
        out.print(found.table())
        headings, rows = found.apart()
        if rows:
            out.print(_table(headings, rows))
        for line in found.sentences():
            out.print(line)
    note = f"minires {' '.join(sys.argv[1:])}"
    if args.out:
        save_picture(_drawn(found, note), Path(args.out))
    if args.html:
        _write_page(found, Path(args.html), note)
    for name, path in (("picture", args.out), ("page", args.html)):
        if path and not args.json:
            out.print(f"{name}: {Path(path).resolve()}")
    if len(found.runs) < 2:
        raise DataError(f"{found.runs[0].folder}: the only run given: give two or more to compare")
    return 0


def _table(headings, rows):
    from rich.table import Column, Table

    table = Table(*(Column(heading, overflow="fold") for heading in headings))
    for row in rows:
        table.add_row(*row)
    return table


def _drawn(found, note, narrow=False):
    from minires.instruments.run_plots import plot_runs

    return plot_runs(
        {group.label: [run.history for run in group.runs] for group in found.groups}, note=note, narrow=narrow
    )


def _write_page(found, path, note) -> None:
    from minires.files import write_text
    from minires.instruments.report import embedded, page, section
    from minires.instruments.style import picture_bytes, untitled
    from minires.instruments.watch import film

    told = "".join(f"<p>{html.escape(line)}</p>" for line in found.sentences())
    alt = f"Test loss and accuracy by epoch of {len(found.runs)} runs in {len(found.groups)} groups."
    drawn = (_drawn(found, note, narrow) for narrow in (False, True))
    curves = embedded(*(untitled(picture_bytes(fig), fig) for fig in drawn), alt)
    sections = [section("The last epoch of each", _html_table(*found.rows()) + told)]
    if found.apart()[1]:
        sections.append(section("What differs", _html_table(*found.apart())))
    sections.append(section("Epoch by epoch", curves))
    films = _films(found)
    if len(films) > 1:
        sections.append(_side_by_side(films, note))
    if found.left_out:
        sections.append(section("Left out", "".join(f"<p>{html.escape(line)}</p>" for line in found.left_out)))
    style = film.style() if len(films) > 1 else ""
    write_text(path, page(f"{len(found.runs)} runs compared", note, sections, style))


def _films(found) -> dict:
    """Run's name -> its film: of the first watched run of each group; of one group alone the first runs."""
    from minires.instruments.watch import read_film

    films = {}
    for group in found.groups if len(found.groups) > 1 else [found]:
        for run in group.runs:
            try:
                film = read_film(run.folder)
            except MiniresError as error:
                err.print(f"left out: {error}", style="red")
                continue
            if film is not None:
                films[run.name] = film
                if group is not found:
                    break
    return dict(list(films.items())[:FILMS])


def _side_by_side(films, note) -> str:
    from minires.instruments.report import embedded
    from minires.instruments.style import picture_bytes, untitled
    from minires.instruments.watch import film

    about = (
        "One slider moves all of them: each shows its record of that step, on one scale. Each column is a step, each "
    )
    about += "row a layer, from the image down to the loss."
    pictures = ""
    for name, one in films.items():
        drawn = (film.plot_film(one, note=note, narrow=narrow) for narrow in (False, True))
        alt = f"{name}: activation gradient and update to weight by layer, over {len(one.steps)} records."
        pictures += embedded(*(untitled(picture_bytes(fig), fig) for fig in drawn), alt)
    return film.side_by_side(films, about, pictures)


def _html_table(headings, rows) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in headings)
    body = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{html.escape(text)}</td>" for text in rest)}</tr>'
        for name, *rest in rows
    )
    head, body = f"<thead><tr>{head}</tr></thead>", f"<tbody>{body}</tbody>"
    return f'<div class="wide" tabindex="0"><table>{head}{body}</table></div>'


def register(commands, command) -> None:
    p = command(
        commands,
        "compare",
        compare,
        "Runs beside each other: results, the settings that differ, and whether the difference is more than chance.",
        "minires compare runs/* --html compare.html",
    )
    p.add_argument(
        "run_folders", metavar="RUN", nargs="+", help="runs' folders; equal ones but for the seed are a group"
    )
    p.add_argument("--out", type=common.picture, metavar="PICTURE", help="the curves, as PNG, SVG or PDF by its ending")
    p.add_argument("--html", metavar="FILE", help="table, curves and tests as a page; of watched runs their films")
    p.add_argument("--json", action="store_true")

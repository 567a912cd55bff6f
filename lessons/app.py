"""All lessons with live knobs, in the browser: `marimo run lessons/app.py`; `?lesson=3` in the address opens one.

The widgets come from the signature of a lesson's `measure`; measuring, judging and drawing are the lesson's own.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="minires: the lessons")

with app.setup:
    import base64
    import html

    import marimo as mo
    from minires.lessons import harness, knobs, shown
    from minires.lessons.notebooks import markdown
    from minires.lessons.prose import readable

    from minires.errors import MiniresError


@app.function
def element(widget):
    """The widget of marimo that a description stands for."""
    look = {"value": widget.value, "label": f"**{widget.name}**: {widget.help}"}
    if widget.kind == "slider":
        return mo.ui.slider(steps=widget.choices, show_value=True, debounce=True, **look)
    if widget.kind == "dropdown":
        return mo.ui.dropdown(widget.choices, allow_select_none=False, **look)
    if widget.kind == "several":
        return mo.ui.multiselect({str(c): c for c in widget.choices}, **look | {"value": map(str, widget.value)})
    return {"switch": mo.ui.switch, "text": mo.ui.text}[widget.kind](**look)


@app.function
def claim_table(claims):
    """One row a claim; one that fails is shown in red."""
    rows = []
    for claim in claims:
        bound, spread = ("", "") if claim.skipped else (claim.bound, claim.spread)
        cells = [readable(claim.text), harness.number(claim.measured), bound, spread, claim.verdict]
        style = ' style="color: #c0392b; font-weight: bold"' if claim.failed else ""
        rows.append(f"<tr{style}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>claim</th><th>measured</th><th>bound</th><th>five seeds gave</th><th></th></tr>"
    reasons = dict.fromkeys(claim.skipped for claim in claims if claim.skipped)
    notes = "".join(f"<p>Not judged: {html.escape(reason)}.</p>" for reason in reasons)
    return mo.Html(f'<div class="prose" style="max-width: none"><table>{head}{"".join(rows)}</table>{notes}</div>')


@app.function
def measured(lesson, module, chosen):
    """The picture, the claims and the command of a run; or the line that says what is wrong with a knob."""
    try:
        values = knobs.arguments(module.measure, chosen)
        outcome = harness.conduct(lesson, module.measure, module.check, module.plot, values)
    except MiniresError as error:
        return [mo.callout(str(error), kind="danger")]
    picture = base64.b64encode(harness.default_picture(lesson).read_bytes()).decode()
    return [
        # within the page: a file of its own may be gone before the browser asks for it, when a knob moves on
        mo.image(f"data:image/png;base64,{picture}", alt=f"{lesson.title} {lesson.look_for}", width="100%"),
        claim_table(outcome.claims),
        mo.md(f"{outcome.seconds:.1f} s: `{harness.command(lesson, values)}`"),
    ]


@app.cell
def _():
    titles = {f"{m.LESSON.number}. {m.LESSON.title}": m for m in harness.discover()}
    asked = mo.query_params().get("lesson")
    first = next((title for title in titles if title.split(".")[0] == asked), next(iter(titles)))
    chosen = mo.ui.dropdown(titles, value=first, allow_select_none=False, label="Lesson", searchable=True)
    quick = mo.ui.switch(value=True, label="begin with the quick form")
    mo.hstack([chosen, quick], justify="start", gap=2, wrap=True)
    return chosen, quick


@app.cell
def _(chosen):
    module = chosen.value
    lesson = module.LESSON
    mo.md(f"# {lesson.title}\n\n*{markdown(lesson.question)}*\n\n{markdown(lesson.idea)}")
    return lesson, module


@app.cell
def _(lesson, module, quick):
    live = lesson.number in knobs.LIVE
    start = harness.default_knobs(module.measure, lesson if quick.value else None)
    elements = {w.name: element(w) for w in knobs.widgets(module.measure, start)}
    rows = "".join(f"<div>{{{name}}}</div>" for name in elements)
    panel = mo.Html(f'<div style="display: grid; gap: 0.5rem">{rows}</div>').batch(**elements)
    if not live:
        panel = panel.form(submit_button_label="Measure")
    said = "Each move of a knob measures again." if live else "This one takes a while: set the knobs, then Measure."
    mo.vstack([mo.md(f"## Turn the knobs\n\n{said}"), panel])
    return (panel,)


@app.cell
def _(lesson, module, panel):
    mo.stop(panel.value is None, mo.callout("Nothing is measured yet."))
    with mo.status.spinner("measuring ..."):
        seen = measured(lesson, module, panel.value)
    mo.vstack(seen)
    return


@app.cell
def _(lesson):
    _sources = "\n".join(f"- {markdown(source)}" for source in lesson.sources)
    _code = {shown.name(item): mo.md(f"```{shown.language(item)}\n{shown.source(item)}\n```") for item in lesson.shows}
    mo.vstack(
        [
            mo.md(f"**Look for.** {markdown(lesson.look_for)}"),
            mo.md(f"**Wrong if.** {markdown(lesson.wrong_if)}"),
            mo.md(f"**Exercise.** {markdown(lesson.exercise)}"),
            mo.md("## The code"),
            mo.accordion(_code, multiple=True),
            mo.md(f"## From\n\n{_sources}"),
        ]
    )
    return


if __name__ == "__main__":
    app.run()

/* Films of watched runs, one or several in step: a map of steps (across) by layers (down), one record drawn by layer. */
"use strict";
{
  const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const at = (name, film) => document.getElementById(film?.k ? `film-${name}-${film.k}` : `film-${name}`);
  const { films } = JSON.parse(document.getElementById("film-data").textContent);
  films.forEach((film, k) => { film.k = k; film.record = 0; film.last = film.step.length - 1; });
  let by = "step", moments, moment = 0, scales, timer = null;

  function decode(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  function colour(share) {  // of the scale, 0..1
    const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(place), VIRIDIS.length - 2);
    return VIRIDIS[i].map((low, k) => Math.round(low + (place - i) * (VIRIDIS[i + 1][k] - low)));
  }

  function words(v) {
    if (!Number.isFinite(v)) return "none";
    return v && Math.abs(v) < 0.001 ? v.toExponential(1) : String(Number(v.toPrecision(3)));
  }

  /* [lowest, highest] of those that a scale can show, in all films. */
  function extent(lists, log) {
    let low = Infinity, high = -Infinity;
    for (const values of lists) {
      for (const v of values) if (Number.isFinite(v) && (!log || v > 0)) { low = Math.min(low, v); high = Math.max(high, v); }
    }
    if (low > high) return [0.1, 1];
    if (!log) return [0, Math.max(high, 0.05)];
    return low < high ? [low, high] : [low / 1.1, high * 1.1];
  }

  /* The films' numbers of a quantity, with one scale for all. The head's gradient, of another size, would press all others
     to one end of the map's. */
  function prepare(name) {
    const about = films.map((film) => film.quantities[name]).find((quantity) => quantity);
    const { log } = about, form = log ? Math.log10 : (v) => v;
    for (const film of films) {
      const found = film.quantities[name];
      film.rows = found ? found.rows : [];
      film.values = found ? decode(found.values) : new Float32Array();
      film.of = (i, row) => film.values[i * film.rows.length + row];
    }
    const inner = films.map(({ values, rows }) => values.filter((_, k) => rows[k % rows.length][1] !== "head"));
    const whole = extent(films.map(({ values }) => values), log);
    const tints = inner.some(({ length }) => length) ? extent(inner, log) : whole;
    const on = ([low, high]) => (v) =>
      (!Number.isFinite(v) || (log && v <= 0) ? NaN : (form(v) - form(low)) / (form(high) - form(low)));
    scales = { ...about, low: whole[0], high: whole[1], share: on(whole), tints, tint: on(tints) };
  }

  function drawScale() {
    const pen = at("scale").getContext("2d"), [low, high] = scales.tints;
    for (let i = 0; i < 128; i++) { pen.fillStyle = `rgb(${colour(i / 127)})`; pen.fillRect(i, 0, 1, 1); }
    at("low").textContent = words(low);
    const beyond = films.some(({ values }) => values.some((value) => value > high || value < low));
    at("high").textContent = `${words(high)}  ${scales.unit}${scales.log ? ", logarithmic" : ""}${
      beyond ? "; the head reaches beyond" : ""}`;
  }

  function drawMap(film) {
    const canvas = at("map", film), rows = film.rows.length, wide = film.last + 1;
    canvas.parentElement.parentElement.hidden = !rows;
    if (!rows) return;
    canvas.width = wide; canvas.height = rows;
    const tall = Math.min(Math.max(13 * rows, 140), 430);
    canvas.style.height = `${tall}px`;
    const pen = canvas.getContext("2d"), image = pen.createImageData(wide, rows);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < wide; i++) {
        const share = scales.tint(film.of(i, row));
        if (Number.isFinite(share)) image.data.set([...colour(share), 255], 4 * (row * wide + i));
      }
    }
    pen.putImageData(image, 0, 0);
    let below = -Infinity;
    const labels = film.rows.map(([, stage], row) => [stage, row]).filter(([s], row) => !row || film.rows[row - 1][1] !== s);
    at("stages", film).replaceChildren(...labels.map(([stage, row]) => {
      const label = document.createElement("span");
      below = Math.max(below + 13, tall * row / rows);
      label.textContent = stage; label.style.top = `${below}px`;
      return label;
    }));
    const ends = [film.step[0], film.step[film.last]];
    at("axis", film).replaceChildren(...ends.map((step) => {
      const label = document.createElement("span");
      label.textContent = `step ${step}`;
      return label;
    }));
    const span = scales.tints.map(words).join(" to ");
    canvas.setAttribute("aria-label", `${film.name ? `${film.name}: ` : ""}${scales.title} of ${rows} layers, from the image ` +
      `(top) to the loss, over ${wide} records from step ${ends[0]} to ${ends[1]}, from ${span}`);
  }

  function element(name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function ticks() {
    if (!scales.log) return [0, 0.25, 0.5, 0.75, 1].map((s) => s * scales.high);
    const first = Math.ceil(Math.log10(scales.low)), end = Math.floor(Math.log10(scales.high));
    const every = Math.max(1, Math.ceil((end - first + 1) / 6)), found = [];
    for (let e = first; e <= end; e += every) found.push(10 ** e);
    return found.length > 1 ? found : [scales.low, scales.high];
  }

  function drawProfile(film) {
    const svg = at("profile", film), wide = svg.clientWidth || 600, tall = 300, left = 58, low = 28, top = 26, { rows } = film;
    svg.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
    const x = (row) => left + (wide - left - 12) * (row + 0.5) / rows.length;
    const y = (share) => top + (tall - top - low) * (1 - share);
    const rings = rows.some(([, , , main]) => !main) ? "; rings: on shortcuts" : "";
    const parts = [element("text", { x: 0, y: 12 }, `${scales.unit}, by layer; grey: the first record${rings}`)];
    for (const v of ticks()) {
      const height = y(scales.share(Math.max(v, scales.log ? scales.low : 0)));
      parts.push(element("line", { x1: left, x2: wide, y1: height, y2: height, stroke: "var(--line)" }));
      parts.push(element("text", { x: left - 6, y: height + 4, "text-anchor": "end" }, words(v)));
    }
    parts.push(element("text", { x: left, y: tall - 8 }, "image"));
    parts.push(element("text", { x: wide - 4, y: tall - 8, "text-anchor": "end" }, "loss"));
    for (const [i, ink, width] of [[0, "var(--muted)", 1.2], [film.record, "var(--accent)", 2.2]]) {
      let path = "", pen = "M";
      rows.forEach(([, , , main], row) => {
        const share = scales.share(film.of(i, row));
        if (!Number.isFinite(share)) { if (main) pen = "M"; return; }
        const dot = { cx: x(row), cy: y(share), r: width + 1, fill: main ? ink : "var(--card)", stroke: ink };
        parts.push(element("circle", dot));
        if (main) { path += `${pen}${x(row).toFixed(1)} ${y(share).toFixed(1)}`; pen = "L"; }
      });
      parts.push(element("path", { d: path, fill: "none", stroke: ink, "stroke-width": width }));
    }
    svg.replaceChildren(...parts);
    svg.setAttribute("aria-label", at("told", film).textContent);
    svg.style.display = rows.length ? "" : "none";
  }

  /* A run's record of this moment: the last one that was made until then. */
  function turn(film) {
    const later = film[by].findIndex((time) => time > moments[moment]);
    film.record = later < 0 ? film.last : Math.max(later - 1, 0);
    const named = film.rows.map(([name], row) => [name, film.of(film.record, row)]);
    const usable = named.filter(([, v]) => Number.isFinite(v)).sort((a, b) => a[1] - b[1]);
    const range = usable.length ? `from ${words(usable[0][1])} at ${usable[0][0]} to ${words(usable.at(-1)[1])} at ` +
      `${usable.at(-1)[0]}` : named.length ? "nothing to show" : "it has no such layer";
    const ended = moments[moment] > film[by][film.last] ? ", its last record" : "";
    const epoch = by === "epoch" ? `, epoch ${words(film.epoch[film.record])}` : "";
    at("told", film).textContent =
      `Step ${film.step[film.record]}${epoch}${ended}, loss ${words(film.losses[film.record])}: ${range}.`;
    at("cursor", film).style.left = `${100 * film.record / (film.last + 1)}%`;
    at("cursor", film).style.width = `${100 / (film.last + 1)}%`;
    at("numbers", film).replaceChildren(...named.map(([name, v], row) => {
      const line = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row"; head.textContent = name;
      const stage = document.createElement("td"), number = document.createElement("td");
      stage.textContent = film.rows[row][1]; number.className = "number"; number.textContent = words(v);
      line.append(head, stage, number);
      return line;
    }));
    drawProfile(film);
  }

  function show(i) {
    moment = Math.min(Math.max(i, 0), moments.length - 1);
    at("slider").value = moment;
    at("slider").setAttribute("aria-valuetext", `${by} ${words(moments[moment])}`);
    films.forEach(turn);
  }

  function lineUp(name) {
    const now = moments ? moments[moment] / moments.at(-1) : 0;
    by = name;
    moments = [...new Set(films.flatMap((film) => film[by]))].sort((a, b) => a - b);
    at("slider").max = moments.length - 1;
    show(Math.max(moments.findLastIndex((time) => time <= now * moments.at(-1)), 0));
  }

  function choose(name) {
    prepare(name);
    at("says").textContent = scales.says;
    drawScale();
    films.forEach(drawMap);
    if (moments) show(moment); else lineUp(by);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "Play";
    films.forEach((film) => at("told", film).setAttribute("aria-live", "polite"));
  }

  function play() {
    if (timer) { stop(); return; }
    const last = moments.length - 1;
    if (moment === last) show(0);
    at("play").textContent = "Pause";
    films.forEach((film) => at("told", film).setAttribute("aria-live", "off"));
    timer = setInterval(() => { show(moment + 1); if (moment === last) stop(); }, Math.max(60, Math.min(400, 8000 / moments.length)));
  }

  const titles = new Map(films.flatMap(({ quantities }) => Object.entries(quantities)).map(([name, q]) => [name, q.title]));
  at("quantity").append(...[...titles].map(([name, title]) => new Option(title, name)));
  at("quantity").addEventListener("change", (event) => choose(event.target.value));
  at("line-up").hidden = new Set(films.map((film) => film.steps_an_epoch)).size < 2;
  at("by").addEventListener("change", (event) => lineUp(event.target.value));
  at("slider").addEventListener("input", (event) => { stop(); show(Number(event.target.value)); });
  at("play").addEventListener("click", play);
  for (const film of films) {
    at("map", film).addEventListener("click", (event) => {
      stop();
      const record = Math.floor(event.offsetX / at("map", film).clientWidth * (film.last + 1));
      show(moments.indexOf(film[by][Math.min(record, film.last)]));
    });
  }
  addEventListener("resize", () => films.forEach(drawProfile));
  choose(at("quantity").value);
}

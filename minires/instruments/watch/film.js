/* The film of a watched run: a map of steps (across) by layers (down), and one record of it drawn by layer. */
"use strict";
{
  const data = JSON.parse(document.getElementById("film-data").textContent);
  const at = (name) => document.getElementById(`film-${name}`);
  const last = data.steps.length - 1;
  const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  let shown, record = 0, timer = null;

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

  /* [lowest, highest] of those that a scale can show. */
  function extent(values, log) {
    const usable = values.filter((v) => Number.isFinite(v) && (!log || v > 0));
    if (!usable.length) return [0.1, 1];
    const [low, high] = [Math.min, Math.max].map((of) => usable.reduce((a, b) => of(a, b)));
    if (!log) return [0, Math.max(high, 0.05)];
    return low < high ? [low, high] : [low / 1.1, high * 1.1];
  }

  /* The quantity with its scales. The head's gradient, of another size, would press all others to one end of the map's. */
  function prepare(name) {
    const found = { name, ...data.quantities[name] };
    found.values = decode(found.values);
    found.of = (i, row) => found.values[i * found.rows.length + row];
    const inner = found.values.filter((_, k) => found.rows[k % found.rows.length][1] !== "head");
    const form = found.log ? Math.log10 : (v) => v;
    const on = ([low, high]) => (v) =>
      (!Number.isFinite(v) || (found.log && v <= 0) ? NaN : (form(v) - form(low)) / (form(high) - form(low)));
    [found.low, found.high] = extent(found.values, found.log);
    found.tints = extent(inner.length ? inner : found.values, found.log);
    found.share = on([found.low, found.high]);
    found.tint = on(found.tints);
    return found;
  }

  function drawMap() {
    const canvas = at("map"), rows = shown.rows.length;
    canvas.width = last + 1; canvas.height = rows;
    const tall = Math.min(Math.max(13 * rows, 140), 430);
    canvas.style.height = `${tall}px`;
    const pen = canvas.getContext("2d"), image = pen.createImageData(canvas.width, rows);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i <= last; i++) {
        const share = shown.tint(shown.of(i, row));
        if (Number.isFinite(share)) image.data.set([...colour(share), 255], 4 * (row * canvas.width + i));
      }
    }
    pen.putImageData(image, 0, 0);
    const scale = at("scale").getContext("2d");
    for (let i = 0; i < 128; i++) { scale.fillStyle = `rgb(${colour(i / 127)})`; scale.fillRect(i, 0, 1, 1); }
    at("low").textContent = words(shown.tints[0]);
    const beyond = shown.values.some((value) => value > shown.tints[1] || value < shown.tints[0]);
    at("high").textContent = `${words(shown.tints[1])}  ${shown.unit}${shown.log ? ", logarithmic" : ""}${
      beyond ? "; the head reaches beyond" : ""}`;
    let below = -Infinity;
    const labels = shown.rows.map(([, stage], row) => [stage, row]).filter(([s], row) => !row || shown.rows[row - 1][1] !== s);
    at("stages").replaceChildren(...labels.map(([stage, row]) => {
      const label = document.createElement("span");
      below = Math.max(below + 13, tall * row / rows);
      label.textContent = stage; label.style.top = `${below}px`;
      return label;
    }));
    at("axis").replaceChildren(...[`step ${data.steps[0]}`, `step ${data.steps[last]}`].map((text) => {
      const label = document.createElement("span");
      label.textContent = text;
      return label;
    }));
    canvas.setAttribute("aria-label", `${shown.title} of ${rows} layers, from the image (top) to the loss, over ` +
      `${last + 1} records from step ${data.steps[0]} to ${data.steps[last]}, from ${words(shown.tints[0])} to ${words(shown.tints[1])}`);
  }

  function element(name, attributes, text = "") {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  }

  function ticks() {
    if (!shown.log) return [0, 0.25, 0.5, 0.75, 1].map((s) => s * shown.high);
    const first = Math.ceil(Math.log10(shown.low)), end = Math.floor(Math.log10(shown.high));
    const every = Math.max(1, Math.ceil((end - first + 1) / 6)), found = [];
    for (let e = first; e <= end; e += every) found.push(10 ** e);
    return found.length > 1 ? found : [shown.low, shown.high];
  }

  function drawProfile() {
    const svg = at("profile"), wide = svg.clientWidth || 600, tall = 300, left = 58, low = 28, top = 26, rows = shown.rows;
    svg.setAttribute("viewBox", `0 0 ${wide} ${tall}`);
    const x = (row) => left + (wide - left - 12) * (row + 0.5) / rows.length;
    const y = (share) => top + (tall - top - low) * (1 - share);
    const parts = [element("text", { x: 0, y: 12 }, `${shown.unit}, by layer; grey: the first record`)];
    for (const v of ticks()) {
      const height = y(shown.share(Math.max(v, shown.log ? shown.low : 0)));
      parts.push(element("line", { x1: left, x2: wide, y1: height, y2: height, stroke: "var(--line)" }));
      parts.push(element("text", { x: left - 6, y: height + 4, "text-anchor": "end" }, words(v)));
    }
    parts.push(element("text", { x: left, y: tall - 8 }, "image"));
    parts.push(element("text", { x: wide - 4, y: tall - 8, "text-anchor": "end" }, "loss"));
    for (const [i, ink, width] of [[0, "var(--muted)", 1.2], [record, "var(--accent)", 2.2]]) {
      let path = "", pen = "M";
      rows.forEach(([, , , main], row) => {
        const share = shown.share(shown.of(i, row));
        if (!Number.isFinite(share)) { if (main) pen = "M"; return; }
        const dot = { cx: x(row), cy: y(share), r: width + 1, fill: main ? ink : "var(--card)", stroke: ink };
        parts.push(element("circle", dot));
        if (main) { path += `${pen}${x(row).toFixed(1)} ${y(share).toFixed(1)}`; pen = "L"; }
      });
      parts.push(element("path", { d: path, fill: "none", stroke: ink, "stroke-width": width }));
    }
    svg.replaceChildren(...parts);
    svg.setAttribute("aria-label", at("told").textContent);
  }

  function show(i) {
    record = Math.min(Math.max(i, 0), last);
    at("slider").value = record;
    const named = shown.rows.map(([name], row) => [name, shown.of(record, row)]);
    const usable = named.filter(([, v]) => Number.isFinite(v)).sort((a, b) => a[1] - b[1]);
    const range = usable.length ? `from ${words(usable[0][1])} at ${usable[0][0]} to ${words(usable.at(-1)[1])} at ` +
      `${usable.at(-1)[0]}` : "nothing to show";
    const told = `Step ${data.steps[record]}, loss ${words(data.losses[record])}: ${range}.`;
    at("told").textContent = told;
    at("slider").setAttribute("aria-valuetext", `step ${data.steps[record]}`);
    at("cursor").style.left = `${100 * record / (last + 1)}%`;
    at("cursor").style.width = `${100 / (last + 1)}%`;
    at("numbers").replaceChildren(...named.map(([name, v], row) => {
      const line = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row"; head.textContent = name;
      const stage = document.createElement("td"), number = document.createElement("td");
      stage.textContent = shown.rows[row][1]; number.className = "number"; number.textContent = words(v);
      line.append(head, stage, number);
      return line;
    }));
    drawProfile();
  }

  function choose(name) {
    shown = prepare(name);
    at("says").textContent = shown.says;
    drawMap();
    show(record);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "Play";
    at("told").setAttribute("aria-live", "polite");
  }

  function play() {
    if (timer) { stop(); return; }
    if (record === last) show(0);
    at("play").textContent = "Pause";
    at("told").setAttribute("aria-live", "off");
    timer = setInterval(() => { show(record + 1); if (record === last) stop(); }, Math.max(60, Math.min(400, 8000 / (last + 1))));
  }

  at("quantity").append(...Object.entries(data.quantities).map(([name, q]) => new Option(q.title, name)));
  at("quantity").addEventListener("change", (event) => choose(event.target.value));
  at("slider").max = last;
  at("slider").addEventListener("input", (event) => { stop(); show(Number(event.target.value)); });
  at("play").addEventListener("click", play);
  at("map").addEventListener("click", (event) => {
    stop();
    show(Math.floor(event.offsetX / at("map").clientWidth * (last + 1)));
  });
  addEventListener("resize", drawProfile);
  choose(at("quantity").value);
}

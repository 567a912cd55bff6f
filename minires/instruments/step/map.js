/* The network as a map: a lane for each network, a cell for each block, an arc for each skip. */
"use strict";

const CELL = 38, ARC = 24, FOOT = 18;

/* Pale to deep on paper, deep to pale on black: the eye finds the largest gradient in both. */
const RAMPS = {
  light: [[253, 226, 164], [244, 150, 84], [205, 66, 92], [124, 29, 111], [52, 14, 82]],
  dark: [[58, 24, 92], [136, 34, 106], [212, 72, 66], [246, 154, 52], [252, 236, 150]],
};

function mix(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
  return stops[i].map((from, k) => Math.round(from + (stops[i + 1][k] - from) * (at - i)));
}

const rgb = (triple) => `rgb(${triple.join(",")})`;

/* The gradient that a backward step sends on. */
function sent(network, step) {
  return network.tensors[Object.values(step.outputs)[0]].rms;
}

/* log10 of every gradient on the way back, over all networks: one scale for all of them. */
function gradientScale(networks) {
  const logs = networks.flatMap((n) => n.steps.filter((s) => s.direction === "backward").map((s) => sent(n, s)))
    .filter((g) => g > 0).map(Math.log10);
  const low = Math.min(...logs), high = Math.max(...logs);
  const share = (g) => (g > 0 ? (Math.log10(g) - low) / (high - low || 1) : 0);
  return { low, high, share, colour: (g) => rgb(mix(RAMPS[theme()], share(g))) };
}

/* Cells in forward order: the stem, each block, the head, the loss; each with its steps' positions. */
function cellsOf(network) {
  const cells = new Map();
  network.steps.forEach((step, position) => {
    const key = step.block || step.stage;
    if (!cells.has(key)) cells.set(key, { key, stage: step.stage, block: step.block, forward: [], backward: [] });
    cells.get(key)[step.direction].push(position);
  });
  return [...cells.values()];
}

class Lane {
  constructor(network, scale, parent, onJump) {
    Object.assign(this, { network, scale, onJump, cells: cellsOf(network) });
    this.element = document.createElement("div");
    this.element.className = "lane";
    this.element.innerHTML = `<p><strong>${escaped(network.label)}</strong><span class="reading"></span></p><div></div>`;
    parent.append(this.element);
    this.element.addEventListener("click", (event) => {
      const cell = event.target.closest("[data-cell]");
      if (cell) onJump(this.cells[cell.dataset.cell]);
    });
  }

  layout(width) {
    const stages = [...new Set(this.cells.map((c) => c.stage))], gap = width < 600 ? 2 : 4, rift = width < 600 ? 7 : 18;
    const ends = this.cells.filter((c) => !c.block).length, blocks = this.cells.length - ends;
    const wide = width < 600 ? 24 : 46;
    const room = width - ends * wide - rift * (stages.length - 1) - gap * (this.cells.length - stages.length);
    let x = 0;
    this.cells.forEach((cell, i) => {
      if (i) x += this.cells[i - 1].stage === cell.stage ? gap : rift;
      Object.assign(cell, { x, width: cell.block ? Math.max(room / blocks, 2) : wide });
      x += cell.width;
    });
  }

  draw(width) {
    this.layout(width);
    const arcs = this.cells.some((c) => this.add(c)) ? ARC : 4, height = arcs + CELL + FOOT;
    const line = arcs + CELL / 2;
    const parts = [`<path class="wire" d="M0 ${line}H${width}"/>`];
    this.cells.forEach((cell, i) => {
      const { x, width: w } = cell;
      if (this.add(cell)) {
        const projected = this.network.steps.some((s) => s.block === cell.block && s.path === "shortcut");
        const bend = `M${x - 1} ${line}C${x - 1} ${-arcs * 0.25} ${x + w + 1} ${-arcs * 0.25} ${x + w + 1} ${line}`;
        parts.push(`<path class="arc${projected ? " projected" : ""}" data-arc="${i}" d="${bend}"/>`);
      }
      const r = Math.min(5, w / 4), box = `x="${x}" width="${w}" rx="${r}"`;
      parts.push(`<g data-cell="${i}"><title>${cell.key}</title>
        <rect class="cell" ${box} y="${arcs}" height="${CELL}"/><rect class="fill" ${box} y="${arcs}" height="0"/>
        <rect class="ring" ${box} y="${arcs}" height="${CELL}"/></g>`);
    });
    for (const stage of new Set(this.cells.map((c) => c.stage))) {
      const own = this.cells.filter((c) => c.stage === stage), last = own.at(-1);
      const out = Object.values(this.network.steps[last.forward.at(-1)].outputs)[0];
      const label = this.label(stage, this.network.tensors[out].shape.slice(1), last.x + last.width - own[0].x, width);
      parts.push(`<text x="${(own[0].x + last.x + last.width) / 2}" y="${height - 4}">${label}</text>`);
    }
    const count = this.cells.filter((c) => c.block).length;
    this.element.lastChild.innerHTML = `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"
      role="img" aria-label="Map, ${escaped(this.network.label)}: stem, ${count} blocks, head, loss">${parts.join("")}</svg>`;
    this.arcs = arcs;
  }

  /* As much as the room allows: "stage 3 · 8 × 8 × 512", "stage 3", "3". */
  label(stage, shape, room, width) {
    const name = stage.replace(/(\d)/, " $1"), full = `${name} · ${times(shape)}`;
    if (stage.startsWith("stage") && 6.2 * full.length < room) return full;
    return width < 600 ? stage.replace("stage", "") : name;
  }

  add(cell) {
    return cell.forward.some((p) => this.network.steps[p].kind === "Add");
  }

  update(position) {
    const { steps, tensors } = this.network, here = steps[position];
    this.element.querySelectorAll("[data-cell]").forEach((group, i) => {
      const cell = this.cells[i], fill = group.children[2];
      const back = cell.backward.filter((p) => p <= position).at(-1);
      const done = cell.forward.filter((p) => p <= position).length / cell.forward.length;
      const share = back === undefined ? done : 0.2 + 0.8 * this.scale.share(sent(this.network, steps[back]));
      fill.setAttribute("height", CELL * share);
      fill.setAttribute("y", this.arcs + CELL * (1 - share));
      fill.style.fill = back === undefined ? "" : this.scale.colour(sent(this.network, steps[back]));
      fill.classList.toggle("back", back !== undefined);
      group.classList.toggle("current", cell.key === (here.block || here.stage));
    });
    this.element.querySelectorAll("[data-arc]").forEach((arc) => {
      const cell = this.cells[arc.dataset.arc], adds = (p) => steps[p].kind === "Add" && p <= position;
      const back = cell.backward.find(adds);
      arc.classList.toggle("lit", cell.forward.some(adds));
      arc.style.stroke = back === undefined ? "" : this.scale.colour(sent(this.network, steps[back]));
    });
    const out = tensors[Object.values(here.outputs).at(-1)];
    this.element.querySelector(".reading").textContent =
      `${here.direction === "forward" ? "activation" : "gradient"} rms ${number(out.rms)}`;
  }
}

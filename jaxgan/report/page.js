// The live parts of a report: players of pictures, curves, and the explorer of latents.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
// Without spreading: a function takes only so many arguments.
const least = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const greatest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

// Calls `draw(t)` with t from 0 to 1 in so many milliseconds; returns a function that stops it.
function animate(milliseconds, draw, end) {
  const start = performance.now();
  let request = requestAnimationFrame(function next(now) {
    const t = clamp((now - start) / milliseconds, 0, 1);
    draw(t);
    if (t < 1) request = requestAnimationFrame(next);
    else end();
  });
  return () => cancelAnimationFrame(request);
}

// A button that plays, and stops at its second click.
function bindPlay(button, milliseconds, draw) {
  let stop = null;
  const end = () => {
    if (stop) stop();
    stop = null;
    button.textContent = "Play";
  };
  button.addEventListener("click", () => {
    if (stop) return end();
    button.textContent = "Stop";
    stop = animate(milliseconds, draw, end);
  });
  return end;
}

// ---- Players: one picture at a time, with a slider ----

function bindPlayer(figure) {
  const { tracks, captions } = data.runs[figure.dataset.run][figure.dataset.part];
  const images = [...figure.querySelectorAll("img")];
  const slider = figure.querySelector("input");
  const output = figure.querySelector("output");
  const show = (i) => {
    slider.value = i;
    slider.setAttribute("aria-valuetext", captions[i]);
    output.textContent = captions[i];
    images.forEach((image, k) => {
      image.src = tracks[k].images[i];
      image.alt = `${tracks[k].name}, ${captions[i]}`;
    });
  };
  const last = captions.length - 1;
  slider.max = last;
  const end = bindPlay(figure.querySelector(".play"), 6000, (t) => show(Math.round(t * last)));
  slider.addEventListener("input", () => (end(), show(+slider.value)));
  for (const button of figure.querySelectorAll("[data-by]")) {
    button.addEventListener("click", () => {
      end();
      show(clamp(+slider.value + +button.dataset.by, 0, last));
    });
  }
  // The denoising opens in the middle, where the picture and its estimate differ.
  show(figure.dataset.part === "denoising" ? last >> 1 : last);
}

// ---- Curves ----

const panels = [];
const MARGIN = { left: 48, right: 14, top: 20, bottom: 22 };

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function short(value) {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(1);
  return String(+value.toPrecision(3));
}

// Round numbers that cover [low, high] in about `count` steps.
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let i = first; i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
  return found;
}

// The vertical axis of a panel: limits, ticks, and a function from values to [0, 1].
function verticalAxis(panel) {
  const values = panel.lines
    .flatMap((line) => [
      ...line.y,
      ...line.members.flat(),
      ...(line.even === null ? [] : [line.even]),
    ])
    .filter((value) => value !== null);
  if (panel.scale !== "linear") {
    const positive = values.filter((value) => value > 0);
    const logs = (positive.length ? positive : [1]).map(Math.log10);
    const low = Math.floor(least(logs));
    const high = Math.max(low + 1, Math.ceil(greatest(logs)));
    const every = Math.ceil((high - low) / 5);
    const at = [];
    for (let i = low; i <= high; i += every) at.push(10 ** i);
    const place = (value) => (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low);
    return { at, place };
  }
  let [low, high] = panel.limits ?? [least(values), greatest(values)];
  if (!panel.limits) {
    const room = (high - low || Math.abs(high) || 1) * 0.05;
    [low, high] = [low - room, high + room];
  }
  return { at: ticks(low, high, 5), place: (value) => (value - low) / (high - low) };
}

function drawPanel(panel) {
  const { box, alarms, name } = panel;
  const width = box.clientWidth;
  const height = box.clientHeight;
  if (!width) return; // it is hidden
  const inner = { w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom };
  const { at, place } = verticalAxis(panel);
  const [first, last] = panel.range;
  const x = (value) =>
    MARGIN.left + (last > first ? (value - first) / (last - first) : 0.5) * inner.w;
  const y = (value) => MARGIN.top + (1 - clamp(place(value), -0.02, 1.02)) * inner.h;
  // A slider: its value is the epoch or step whose numbers are read.
  const root = svg("svg", { width, height, tabindex: 0, role: "slider" });
  root.setAttribute("aria-label", describe(panel));
  root.setAttribute("aria-valuemin", first);
  root.setAttribute("aria-valuemax", last);
  for (const value of at) {
    root.append(
      svg("line", {
        class: "grid",
        x1: MARGIN.left,
        x2: width - MARGIN.right,
        y1: y(value),
        y2: y(value),
      }),
    );
    root.append(
      svg("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)),
    );
  }
  const across = last > first ? ticks(first, last, clamp(Math.floor(width / 80), 2, 6)) : [first];
  for (const value of across.filter(Number.isInteger)) {
    root.append(
      svg(
        "text",
        { x: x(value), y: height - 6, "text-anchor": x(value) > width - 20 ? "end" : "middle" },
        value.toLocaleString("en"),
      ),
    );
  }
  if (panel.healthy) {
    const [top, bottom] = [y(panel.healthy[1]), y(panel.healthy[0])];
    root.append(
      svg("rect", {
        class: "healthy",
        x: MARGIN.left,
        width: inner.w,
        y: top,
        height: bottom - top,
      }),
    );
  }
  for (const line of panel.lines) drawLine(root, line, x, y, width);
  alarms.forEach(({ number, at }) => {
    const shift = alarms.filter((other) => other.at === at && other.number < number).length;
    root.append(
      svg("line", {
        class: "alarm",
        x1: x(at),
        x2: x(at),
        y1: MARGIN.top,
        y2: height - MARGIN.bottom,
      }),
    );
    const centre = x(at) + 18 * (x(at) > width / 2 ? -shift : shift); // alarms of one epoch
    root.append(svg("circle", { class: "mark", cx: centre, cy: 10, r: 8 }));
    root.append(svg("text", { class: "mark-text", x: centre, y: 14 }, number));
  });
  root.append(
    svg("line", {
      class: "axis",
      x1: MARGIN.left,
      x2: width - MARGIN.right,
      y1: height - MARGIN.bottom,
      y2: height - MARGIN.bottom,
    }),
  );
  panel.cursor = svg("line", {
    class: "cursor",
    y1: MARGIN.top,
    y2: height - MARGIN.bottom,
    visibility: "hidden",
  });
  root.append(panel.cursor);
  panel.x = x;
  panel.root = root;
  root.addEventListener("pointermove", (event) =>
    point(first + ((event.offsetX - MARGIN.left) / inner.w) * (last - first)),
  );
  root.addEventListener("pointerdown", (event) =>
    point(first + ((event.offsetX - MARGIN.left) / inner.w) * (last - first)),
  );
  root.addEventListener("pointerleave", () => point(null));
  root.addEventListener("blur", () => point(null));
  root.addEventListener("keydown", (event) => stepCursor(panel, event));
  box.replaceChildren(root);
}

function drawLine(root, line, x, y, width) {
  const stroke = `var(--series-${line.colour})`;
  const path = (values) => {
    let open = false;
    return values
      .map((value, i) => {
        if (value === null) return ((open = false), "");
        const command = open ? "L" : "M";
        open = true;
        return `${command}${x(line.x[i]).toFixed(1)} ${y(value).toFixed(1)}`;
      })
      .join("");
  };
  if (line.deviation.length) {
    const places = line.y.map((_, i) => i).filter((i) => line.y[i] !== null);
    const up = places.map((i) => `${x(line.x[i])} ${y(line.y[i] + line.deviation[i])}`);
    const down = places.map((i) => `${x(line.x[i])} ${y(line.y[i] - line.deviation[i])}`).reverse();
    if (places.length)
      root.append(
        svg("path", { class: "band", fill: stroke, d: `M${[...up, ...down].join("L")}Z` }),
      );
  }
  for (const member of line.members)
    root.append(svg("path", { class: "member", stroke, d: path(member) }));
  root.append(
    svg("path", { class: "line", stroke, "stroke-dasharray": line.dash, d: path(line.y) }),
  );
  if (line.x.length < 4) {
    line.x.forEach(
      (at, i) =>
        line.y[i] !== null &&
        root.append(svg("circle", { cx: x(at), cy: y(line.y[i]), r: 3, fill: stroke })),
    );
  }
  if (line.even !== null) {
    root.append(
      svg("line", {
        class: "even",
        stroke,
        x1: MARGIN.left,
        x2: width - MARGIN.right,
        y1: y(line.even),
        y2: y(line.even),
      }),
    );
  }
}

// What a screen reader says of a panel: where its lines begin and end.
function describe(panel) {
  const lines = panel.lines.map((line) => {
    const known = line.y.filter((value) => value !== null);
    return `${line.name} from ${short(known[0])} to ${short(known[known.length - 1])}`;
  });
  return `${panel.title}: ${lines.join("; ")}`;
}

function nearest(xs, at) {
  let best = 0;
  xs.forEach((value, i) => {
    if (Math.abs(value - at) < Math.abs(xs[best] - at)) best = i;
  });
  return best;
}

let pointed = null; // the epoch or step under the cursor, in all panels

function point(at) {
  pointed = at;
  for (const panel of panels) {
    const snapped = panel.xs[nearest(panel.xs, at ?? panel.range[1])];
    panel.lines.forEach((line, k) => {
      const last = line.x.length - 1;
      const i = at === null ? last : nearest(line.x, snapped);
      const isInside = snapped >= line.x[0] && snapped <= line.x[last];
      panel.values[k].textContent = at === null || isInside ? short(line.y[i]) : "-";
    });
    panel.where.textContent = `${data.axis} ${snapped.toLocaleString("en")}`;
    const read = panel.lines.map((line, k) => `${line.name} ${panel.values[k].textContent}`);
    panel.root?.setAttribute("aria-valuenow", snapped);
    panel.root?.setAttribute("aria-valuetext", [panel.where.textContent, ...read].join(", "));
    panel.cursor.setAttribute("visibility", at === null ? "hidden" : "visible");
    panel.cursor.setAttribute("x1", panel.x(snapped));
    panel.cursor.setAttribute("x2", panel.x(snapped));
  }
}

function stepCursor(panel, event) {
  const by = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
  if (!by) return;
  event.preventDefault();
  const i = nearest(panel.xs, pointed ?? panel.range[1]);
  point(panel.xs[clamp(i + by, 0, panel.xs.length - 1)]);
}

function bindPanel(figure) {
  const panel = { ...data.panels[figure.dataset.panel], alarms: data.alarms, range: data.range };
  panel.box = figure.querySelector(".plot");
  panel.where = figure.querySelector("output");
  panel.xs = [...new Set(panel.lines.flatMap((line) => line.x))].sort((a, b) => a - b);
  const legend = figure.querySelector(".legend");
  panel.values = panel.lines.map((line) => {
    const item = document.createElement("li");
    const swatch = svg("svg", { width: 22, height: 8, "aria-hidden": "true" });
    swatch.append(
      svg("line", {
        x1: 0,
        x2: 22,
        y1: 4,
        y2: 4,
        stroke: `var(--series-${line.colour})`,
        "stroke-width": 2.5,
        "stroke-dasharray": line.dash,
      }),
    );
    const value = document.createElement("b");
    item.append(swatch, `${line.name} `, value);
    legend.append(item);
    return value;
  });
  panels.push(panel);
  new ResizeObserver(() => (drawPanel(panel), point(pointed))).observe(panel.box);
  drawPanel(panel);
}

// ---- The explorer ----

const CELLS = 7; // of the map, across and down
const KNOBS = 6; // coordinates with a slider
const POINTS = 600; // samples in a scatter plot

// Standard normal numbers from a seed (mulberry32, Box-Muller).
function makeNormal(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const norm = (a) => Math.sqrt(dot(a, a));
const drawLatent = (size, seed) => Float32Array.from({ length: size }, makeNormal(seed));

// Spherical interpolation (arXiv 1609.04468).
function slerp(a, b, t) {
  const angle = Math.acos(clamp(dot(a, b) / (norm(a) * norm(b)), -1, 1));
  const sine = Math.sin(angle);
  const [p, q] =
    sine < 1e-6 ? [1 - t, t] : [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return a.map((value, i) => p * value + q * b[i]);
}

// Two orthogonal directions, each as long as a latent is on average.
function drawPlane(size, seed) {
  const length = Math.sqrt(size);
  const across = drawLatent(size, seed);
  const down = drawLatent(size, seed + 1);
  const unit = across.map((value) => value / norm(across));
  const along = dot(down, unit);
  const rest = down.map((value, i) => value - along * unit[i]);
  const scale = size > 1 ? length / norm(rest) : 0; // a line has one direction
  return [unit.map((value) => value * length), rest.map((value) => value * scale)];
}

// The arrays of a generator: gzip of all low bytes and then all high bytes of float16 numbers.
async function unpack({ layers, weights }) {
  const packed = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const n = bytes.length / 2;
  const table = Float32Array.from({ length: 65536 }, (_, bits) => {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    return bits >> 15 ? -size : size;
  });
  let at = 0;
  const take = (count) => {
    const found = new Float32Array(count);
    for (let i = 0; i < count; i++, at++) found[i] = table[bytes[at] | (bytes[n + at] << 8)];
    return found;
  };
  return layers.map(([rows, columns]) => ({
    rows,
    columns,
    kernel: take(rows * columns),
    bias: take(columns),
  }));
}

// The output of the generator for one latent: values in [-1, 1], or those of a vector.
function forward(model, latent, label) {
  let x = new Float32Array(model.layers[0].rows);
  x.set(latent);
  if (model.classes.length) x[latent.length + label] = 1;
  model.layers.forEach(({ rows, columns, kernel, bias }, depth) => {
    const y = bias.slice();
    for (let i = 0, at = 0; i < rows; i++, at += columns) {
      const value = x[i];
      if (value === 0) continue; // after a ReLU many are
      for (let j = 0; j < columns; j++) y[j] += value * kernel[at + j];
    }
    const isLast = depth === model.layers.length - 1;
    if (!isLast) for (let j = 0; j < columns; j++) y[j] = Math.max(y[j], 0);
    else if (model.bounded) for (let j = 0; j < columns; j++) y[j] = Math.tanh(y[j]);
    x = y;
  });
  return x;
}

const toByte = (value) => clamp(Math.round(value * 127.5 + 127.5), 0, 255);

// An output as RGBA; of other than 1, 3 or 4 channels the first is shown.
function toPicture({ shape: [height, width, channels] }, values) {
  const picture = new ImageData(width, height);
  const colours = [1, 3, 4].includes(channels) ? channels : 1;
  for (let i = 0; i < height * width; i++) {
    for (let k = 0; k < 4; k++) {
      const source = colours === 1 ? 0 : k;
      picture.data[4 * i + k] =
        k === 3 && colours < 4 ? 255 : toByte(values[channels * i + source]);
    }
  }
  return picture;
}

class Explorer {
  constructor(root, run, model) {
    this.root = root;
    this.run = run;
    this.model = model;
    this.isPoints = model.shape[0] === 1 && model.shape[1] === 1;
    this.scale = 1;
    this.label = 0;
    this.seed = 1;
    this.planeSeed = 1001;
    this.plane = drawPlane(model.latent, this.planeSeed);
    this.ends = [drawLatent(model.latent, 1), drawLatent(model.latent, 2)];
    this.picture = root.querySelector(".stage canvas");
    this.map = root.querySelector(".pad canvas");
    this.dot = root.querySelector(".pad i");
    this.bindButtons();
    this.bindPad();
    this.bindKnobs();
    this.bindWalk();
    this.moveTo(this.ends[0]);
  }

  find(selector) {
    return this.root.querySelector(selector);
  }

  render(latent, label = this.label) {
    return forward(this.model, latent, label);
  }

  // The latent becomes the centre of the plane.
  moveTo(latent) {
    this.centre = Float32Array.from(latent);
    this.place = [0, 0];
    this.show(this.centre);
    this.drawMapSoon();
  }

  // A place in the plane, both in [-1, 1]. All its latents are as long as the one in the centre.
  latentAt([across, down]) {
    const [u, v] = this.plane;
    const moved = this.centre.map((value, i) => value + across * u[i] + down * v[i]);
    const scale = moved.length > 2 ? norm(this.centre) / (norm(moved) || 1) : 1;
    return moved.map((value) => value * scale);
  }

  walkTo(place) {
    this.place = place.map((value) => clamp(value, -1, 1));
    const isCentre = this.place.every((value) => value === 0);
    this.show(isCentre ? this.centre : this.latentAt(this.place));
  }

  show(latent) {
    this.latent = latent;
    this.draw(this.picture, latent);
    const share = (value) => `${(100 * (((value + 1) / 2) * (CELLS - 1) + 0.5)) / CELLS}%`;
    this.dot.style.left = share(this.place[0]);
    this.dot.style.top = share(this.place[1]);
    for (const { at, slider, output } of this.knobs) {
      slider.value = latent[at];
      output.textContent = latent[at].toFixed(2);
    }
    this.find(".scale").value = this.scale;
    this.find(".scale + output").textContent = this.scale.toFixed(2);
    this.root.querySelectorAll("[data-label]").forEach((button) => {
      button.setAttribute("aria-pressed", String(+button.dataset.label === this.label));
    });
  }

  redraw() {
    this.show(this.latent);
    this.ends.forEach((latent, k) => this.draw(this.find(`[data-end="${k}"]`), latent));
    this.drawMapSoon();
  }

  draw(canvas, latent) {
    const values = this.render(latent.map((value) => value * this.scale));
    if (this.isPoints) return this.drawPoints(canvas, values);
    [canvas.height, canvas.width] = this.model.shape;
    canvas.getContext("2d").putImageData(toPicture(this.model, values), 0, 0);
  }

  // Other samples in gray, and the one of this latent.
  drawPoints(canvas, values) {
    const size = canvas === this.picture ? 440 : 110;
    canvas.width = canvas.height = size;
    const others = this.others();
    const pen = canvas.getContext("2d");
    const place = (value) => size * (0.5 + (0.45 * value) / this.reach);
    const spot = ([x, y = 0], radius, colour) => {
      pen.fillStyle = colour;
      pen.beginPath();
      pen.arc(place(x), size - place(y), radius, 0, 7);
      pen.fill();
    };
    pen.fillStyle = css("--raised");
    pen.fillRect(0, 0, size, size);
    others.forEach((other) => spot(other, 2.5, css("--edge")));
    spot(values, 9, css("--accent"));
  }

  others() {
    const key = `${this.scale} ${this.label}`;
    if (this.othersKey !== key) {
      this.othersKey = key;
      this.drawn = Array.from({ length: POINTS }, (_, i) =>
        this.render(drawLatent(this.model.latent, 5000 + i).map((value) => value * this.scale)),
      );
      const sizes = this.drawn.flatMap((point) => [...point.slice(0, 2)].map(Math.abs));
      this.reach ??= greatest(sizes);
    }
    return this.drawn;
  }

  drawMapSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.drawMap(), 120);
  }

  // The samples of a grid of places in the plane, a row in each frame.
  async drawMap() {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const [height, width] = this.isPoints ? [60, 60] : this.model.shape;
    if (this.map.width !== CELLS * width || this.map.height !== CELLS * height) {
      [this.map.height, this.map.width] = [CELLS * height, CELLS * width];
    }
    const pen = this.map.getContext("2d");
    for (let row = 0; row < CELLS; row++) {
      await new Promise(requestAnimationFrame);
      if (turn !== this.turn) return; // a later map has begun
      for (let column = 0; column < CELLS; column++) {
        if (this.isPoints) {
          [pen.fillStyle, pen.strokeStyle] = [css("--raised"), css("--line")];
          pen.fillRect(column * width, row * height, width, height);
          pen.strokeRect(column * width, row * height, width, height);
          continue;
        }
        const place = [column, row].map((k) => (2 * k) / (CELLS - 1) - 1);
        const latent = this.latentAt(place).map((value) => value * this.scale);
        pen.putImageData(toPicture(this.model, this.render(latent)), column * width, row * height);
      }
    }
  }

  bindButtons() {
    const on = (name, act) => this.find(name).addEventListener("click", act);
    on(".new-sample", () => this.moveTo(drawLatent(this.model.latent, ++this.seed * 7919)));
    on(".new-plane", () => {
      this.plane = drawPlane(this.model.latent, (this.planeSeed += 2));
      this.moveTo(this.latent);
    });
    on(".copy", () => this.copy());
    this.root.querySelectorAll("[data-label]").forEach((button) => {
      button.addEventListener("click", () => {
        this.label = +button.dataset.label;
        this.redraw();
      });
    });
    const scale = this.find(".scale");
    scale.addEventListener("input", () => {
      this.scale = +scale.value;
      this.redraw();
    });
  }

  bindPad() {
    const pad = this.find(".pad");
    const follow = (event) => {
      const box = this.map.getBoundingClientRect();
      const shares = [
        (event.clientX - box.left) / box.width,
        (event.clientY - box.top) / box.height,
      ];
      this.walkTo(shares.map((share) => (2 * (share * CELLS - 0.5)) / (CELLS - 1) - 1));
    };
    pad.addEventListener("pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      follow(event);
    });
    pad.addEventListener("pointermove", (event) => event.buttons && follow(event));
    const step = ([x, y]) => this.walkTo([this.place[0] + x, this.place[1] + y]);
    this.root.querySelectorAll("[data-move]").forEach((button) => {
      button.addEventListener("click", () => step(JSON.parse(button.dataset.move)));
    });
    const moves = {
      ArrowLeft: [-0.1, 0],
      ArrowRight: [0.1, 0],
      ArrowUp: [0, -0.1],
      ArrowDown: [0, 0.1],
    };
    this.map.addEventListener("keydown", (event) => {
      if (!moves[event.key]) return;
      event.preventDefault();
      step(moves[event.key]);
    });
  }

  // Sliders for the coordinates with the largest weights.
  bindKnobs() {
    const { kernel, columns } = this.model.layers[0];
    const weight = (i) => norm(kernel.subarray(i * columns, (i + 1) * columns));
    const order = [...Array(this.model.latent).keys()].sort((i, j) => weight(j) - weight(i));
    const box = this.find(".coordinates");
    this.knobs = order.slice(0, KNOBS).map((at) => {
      const row = document.createElement("label");
      row.className = "knob";
      row.innerHTML =
        `<span>number ${at + 1}</span>` +
        '<input type="range" min="-3" max="3" step="any"><output aria-live="off"></output>';
      box.append(row);
      const [slider, output] = [row.querySelector("input"), row.querySelector("output")];
      slider.addEventListener("input", () => {
        const latent = Float32Array.from(this.latent);
        latent[at] = +slider.value;
        this.moveTo(latent);
      });
      slider.addEventListener("keydown", (event) => {
        // With step="any" the keys would move by a hundredth of the range in some browsers alone.
        const by = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1 }[event.key];
        if (!by) return;
        event.preventDefault();
        slider.value = +slider.value + by;
        slider.dispatchEvent(new Event("input"));
      });
      return { at, slider, output };
    });
  }

  bindWalk() {
    const slider = this.find(".walk input");
    const walk = (t) => {
      slider.value = t;
      this.moveTo(slerp(...this.ends, t));
    };
    const play = this.find(".walk .play");
    const end = bindPlay(play, 5000, walk);
    for (const kind of ["pointerdown", "keydown"]) {
      // Whoever uses another control has taken over.
      this.root.addEventListener(kind, (event) => event.target !== play && end());
    }
    slider.addEventListener("input", () => (end(), walk(+slider.value)));
    this.root.querySelectorAll("[data-keep]").forEach((button) => {
      const k = +button.dataset.keep;
      button.addEventListener("click", () => {
        this.ends[k] = Float32Array.from(this.latent);
        slider.value = k;
        this.redraw();
      });
    });
    this.ends.forEach((latent, k) => this.draw(this.find(`[data-end="${k}"]`), latent));
  }

  // Puts the latent into the address, and the address into the clipboard.
  async copy() {
    const bytes = new Uint8Array(Float32Array.from(this.latent).buffer);
    const text = btoa(String.fromCharCode(...bytes))
      .replaceAll("+", "-")
      .replaceAll("/", "_");
    history.replaceState(null, "", `#latent=${this.run},${this.scale},${this.label},${text}`);
    try {
      await navigator.clipboard.writeText(location.href);
      this.say("The link to this picture is in the clipboard.");
    } catch {
      this.say("The address of this page now leads to this picture.");
    }
  }

  open(scale, label, text) {
    const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const latent = new Float32Array(Uint8Array.from(raw, (c) => c.charCodeAt(0)).buffer);
    const last = Math.max(0, this.model.classes.length - 1);
    const isKnown = [...latent, +scale, +label].every(Number.isFinite);
    if (latent.length !== this.model.latent || !isKnown) throw new Error();
    this.scale = clamp(+scale, 0, 1.5);
    this.label = clamp(Math.trunc(+label), 0, last);
    this.moveTo(latent);
    this.redraw();
  }

  say(text) {
    this.find(".said").textContent = text;
  }
}

function openLink(explorers) {
  const start = "#latent=";
  if (!location.hash.startsWith(start)) return;
  const [run, ...parts] = location.hash.slice(start.length).split(",");
  const explorer = explorers.find((one) => String(one.run) === run);
  try {
    explorer.open(...parts);
    explorer.root.scrollIntoView({ block: "center" });
  } catch {
    (explorer ?? explorers[0])?.say("The latent in the address does not fit this page.");
  }
}

async function startExplorers() {
  const explorers = [];
  for (const root of document.querySelectorAll(".explorer")) {
    const run = +root.dataset.run;
    const model = data.runs[run].explorer;
    explorers.push(new Explorer(root, run, { ...model, layers: await unpack(model) }));
  }
  openLink(explorers);
  addEventListener("hashchange", () => openLink(explorers));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    explorers.filter((one) => one.isPoints).forEach((one) => one.redraw());
  });
  window.explorers = explorers;
  document.body.dataset.ready = ""; // for tests
}

document.querySelectorAll(".player").forEach(bindPlayer);
document.querySelectorAll("[data-panel]").forEach(bindPanel);
if (panels.length) point(null);
startExplorers();

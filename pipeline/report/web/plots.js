// Figures of SVG whose marks the pointer and the arrow keys read out.

/**
 * Return an SVG that is drawn again for every width. `draw(width)` returns `nodes` and `marks`, which are boxes with
 * texts that the pointer or the arrow keys read out. `pick(x, y)` finds a mark, by default the horizontally nearest.
 * `step(at, key)` returns the next mark for an arrow key.
 */
function plot(label, height, draw) {
  const cursor = svg("rect", { class: "cursor" });
  const picture = svg("svg", {
    class: "plot",
    role: "img",
    tabindex: 0,
    "aria-label": `${label}. Arrow keys read it out.`,
  });
  let drawn = { nodes: [], marks: [] };
  let at = -1;
  let width = 0;

  function redraw(room) {
    // Labels would overlap in a narrower drawing.
    const now = Math.max(240, Math.round(room));
    if (now === width) return;
    width = now;
    drawn = draw(width);
    const tall = drawn.height ?? height;
    picture.setAttribute("viewBox", `0 0 ${width} ${tall}`);
    picture.replaceChildren(...drawn.nodes, cursor);
    leave();
  }

  function read(index) {
    const mark = drawn.marks[index];
    if (!mark) return leave();
    at = index;
    fill(cursor, { x: mark.x, y: mark.y, width: mark.width, height: mark.height, class: "cursor on" }, []);
    tip.show(mark.text, cursor.getBoundingClientRect());
  }

  function leave() {
    at = -1;
    cursor.setAttribute("class", "cursor");
    tip.hide();
  }

  function nearest(x) {
    const away = drawn.marks.map((mark) => Math.abs(mark.x + mark.width / 2 - x));
    return away.indexOf(Math.min(...away));
  }

  function point(event) {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    const y = ((event.clientY - box.top) / box.height) * (drawn.height ?? height);
    read(drawn.pick ? drawn.pick(x, y) : nearest(x));
  }

  picture.addEventListener("pointermove", point);
  picture.addEventListener("pointerdown", point);
  picture.addEventListener("pointerleave", leave);
  picture.addEventListener("blur", leave);
  picture.addEventListener("keydown", (event) => {
    if (event.key === "Escape") leave();
    if (!(event.key in STEPS) || !drawn.marks.length) return;
    event.preventDefault();
    const last = drawn.marks.length - 1;
    const next = at < 0 ? 0 : drawn.step ? drawn.step(at, event.key) : at + STEPS[event.key];
    read(Math.max(0, Math.min(last, next)));
  });
  const frame = el("div", { class: "frame" }, picture);
  new ResizeObserver(([{ contentRect }]) => redraw(contentRect.width)).observe(frame);
  return frame;
}

function label(x, y, text, anchor = "middle", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, text);
}

function rule(x1, y1, x2, y2, kind) {
  return svg("line", { x1, y1, x2, y2, class: kind });
}

/** Return axis lines and labels of counts for the left side of a plot. */
function scaleLeft(most, left, width, y, text) {
  return ticks(most, 5).map((value) => [
    rule(left, y(value), width, y(value), value ? "grid" : "axis"),
    label(left - 6, y(value) + 4, text(value), "end"),
  ]);
}

/**
 * Return columns side by side. `at` in ticks and lines counts columns: 0 is the left edge of the first, 0.5 its middle.
 * `texts` are read out, one for each column.
 */
function columns(title, values, { texts, marks, lines = [], height = 170 }) {
  return plot(title, height, (width) => {
    const [left, top, bottom] = [40, 18, height - 24];
    const most = Math.max(1, ...values);
    const step = (width - left) / values.length;
    const gap = Math.min(4, step / 5);
    const y = (value) => bottom - ((bottom - top) * value) / most;
    const boxes = values.map((value, k) => ({
      x: left + k * step + gap / 2,
      y: y(value),
      width: step - gap,
      height: bottom - y(value),
      text: texts[k],
    }));
    const every = Math.ceil((marks.length * 38) / (width - left));
    return {
      marks: boxes,
      nodes: [
        scaleLeft(most, left, width, y, compact),
        boxes.map(({ text, ...box }) => svg("rect", { class: "mark plain", ...box })),
        marks
          .filter((_, k) => k % every === 0)
          .map(({ at, text }) => label(left + at * step, height - 6, text, at === 0 ? "start" : "middle")),
        lines.map(({ at, text }) => [
          rule(left + at * step, top - 4, left + at * step, bottom, "median"),
          label(
            left + at * step,
            top - 7,
            text,
            at > values.length * 0.8 ? "end" : at < 1 ? "start" : "middle",
            "strong",
          ),
        ]),
      ].flat(3),
    };
  });
}

/** A histogram of the contract, without the empty bins at its end. */
function histogram(title, given, unit, places = 0) {
  const last = given.counts.findLastIndex((number) => number > 0);
  if (last < 0) return el("p", { class: "none" }, "Nothing to count.");
  const counts = given.counts.slice(0, last + 1);
  const edges = given.edges.slice(0, last + 2);
  const beyond = last === given.counts.length - 1 && given.largest > edges.at(-1);
  const all = total(counts);
  const name = (value) => (Number.isInteger(value) ? count(value) : String(Number(value.toFixed(2))));
  const texts = counts.map((number, k) => {
    const range = beyond && k === last ? `${name(edges[k])} or more` : `${name(edges[k])} to ${name(edges[k + 1])}`;
    return `${range}${unit}\n${count(number)} (${portion(number, all)})`;
  });
  const marks = edges.map((edge, k) => ({ at: k, text: name(edge) + (beyond && k === last + 1 ? "+" : "") }));
  const bin = Math.max(
    0,
    edges.findLastIndex((edge) => edge <= given.median),
  );
  const inside = bin > last ? 0 : (given.median - edges[bin]) / (edges[bin + 1] - edges[bin]);
  const lines = [{ at: Math.min(bin + inside, last + 1), text: `median ${decimal(given.median, places)}` }];
  return columns(title, counts, { texts, marks: marks.slice(0, -1), lines });
}

/** A line through `points` ({x, y, text}) over time: x is in seconds. */
function curve(title, points) {
  const height = 190;
  return plot(title, height, (width) => {
    const [left, top, bottom, right] = [46, 10, height - 24, width - 12];
    const [wide, tall] = [Math.max(1e-9, ...points.map((p) => p.x)), Math.max(1e-9, ...points.map((p) => p.y))];
    const x = (value) => left + ((right - left) * value) / wide;
    const y = (value) => bottom - ((bottom - top) * value) / tall;
    const path = points.map((p, k) => `${k ? "L" : "M"}${x(p.x).toFixed(1)} ${y(p.y).toFixed(1)}`).join("");
    return {
      marks: points.map((p) => ({ x: x(p.x) - 4, y: y(p.y) - 4, width: 8, height: 8, text: p.text })),
      nodes: [
        scaleLeft(tall, left, width, y, compact),
        timeTicks(wide, Math.min(6, width / 90)).map((value) =>
          label(x(value), height - 6, duration(value), value ? "middle" : "start"),
        ),
        svg("path", { class: "mark line", d: path }),
      ].flat(2),
    };
  });
}

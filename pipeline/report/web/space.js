// Sections about the preference space: coverage and correlations.

const ORDERS = {
  group: ["Group", () => 0],
  active: ["Most active", (a, b) => b.positive + b.negative - a.positive - a.negative],
  lopsided: ["Most one-sided", (a, b) => lopsided(b) - lopsided(a)],
  name: ["Name", (a, b) => a.name.localeCompare(b.name)],
};

function lopsided({ positive, negative }) {
  return positive + negative ? Math.abs(positive - negative) / (positive + negative) : -1;
}

function groups(dimensions) {
  return [...Map.groupBy(dimensions, (d) => d.group)];
}

/** Return a name such as `work_and_life_style` in readable form. */
function spaced(name) {
  return name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
}

function coverage(report, open) {
  const occur = report.dimensions.filter((d) => d.positive + d.negative);
  if (!occur.length) return section("coverage", "Coverage and balance", none("No dimension is active in any example."));
  const rows = report.dimensions.map((d) => [
    d.name,
    d.negative_label,
    count(d.negative),
    d.positive_label,
    count(d.positive),
  ]);
  return section(
    "coverage",
    "Coverage and balance",
    figure("Which preferences do the examples express?", coverageAnswer(report, occur), coverageRows(occur, open), {
      wide: true,
      how:
        "Examples with each pole of a dimension, on one scale. Hover or focus a row to see its poles; press Enter or " +
        "click to list its examples below.",
      numbers: [["Dimension", "Negative pole", "Examples", "Positive pole", "Examples"], rows],
    }),
    unusedDimensions(report.dimensions.filter((d) => !d.positive && !d.negative)),
    activeFigure(report),
  );
}

/** Return the list of dimensions without examples; a build may use only a few on purpose. */
function unusedDimensions(unused) {
  const list = () => el("p", { class: "none" }, short(unused.map((d) => d.name).join(", "), 4000));
  return unused.length > 0 && unfolded(`${many(unused.length, "dimension")} without an example`, list);
}

function coverageAnswer(report, occur, noun = "example") {
  const poles = occur.flatMap((d) => [
    [d.positive, d.positive_label],
    [d.negative, d.negative_label],
  ]);
  const missing = poles.filter(([number]) => !number).length;
  const [least, label] = poles.filter(([number]) => number).sort((a, b) => a[0] - b[0])[0];
  const uneven = occur.filter((d) => Math.max(d.positive, d.negative) > 2 * Math.min(d.positive, d.negative)).length;
  return [
    occur.length === report.dimensions.length
      ? `All ${count(occur.length)} dimensions occur`
      : `${count(occur.length)} of ${count(report.dimensions.length)} dimensions occur`,
    missing
      ? `, but ${many(missing, "pole")} of them never ${missing === 1 ? "does" : "do"}. `
      : ", each with both poles. ",
    `The rarest pole is \u201c${short(label, 60)}\u201d with ${many(least, noun)}. `,
    uneven
      ? `In ${many(uneven, "dimension")} one pole is more than twice as frequent as the other.`
      : "In no dimension is one pole more than twice as frequent as the other.",
  ].join("");
}

function coverageRows(dimensions, open) {
  const most = Math.max(...dimensions.flatMap((d) => [d.positive, d.negative]));
  const list = el("ul", { class: "poles" });
  const draw = (order) => {
    const row = (d) => el("li", {}, poleRow(d, most, open));
    list.replaceChildren(
      ...(order === "group"
        ? groups(dimensions).flatMap(([name, members]) => [
            el("li", { class: "heading" }, short(spaced(name), 60), " ", el("span", {}, count(members.length))),
            ...members.map(row),
          ])
        : dimensions.toSorted(ORDERS[order][1]).map(row)),
    );
    const buttons = [...list.querySelectorAll("button")];
    buttons.forEach((button, at) => (button.tabIndex = at ? -1 : 0));
  };
  draw("group");
  roving(list);
  const sort = el(
    "select",
    { onchange: (event) => draw(event.target.value) },
    Object.entries(ORDERS).map(([value, [text]]) => el("option", { value }, text)),
  );
  return el(
    "div",
    {},
    el(
      "div",
      { class: "above" },
      legend(["negative", "negative pole"], ["positive", "positive pole"]),
      el("label", {}, "Sort by ", sort),
    ),
    list,
  );
}

function poleRow(d, most, open) {
  const bar = (kind, number) => el("span", { class: `mark ${kind}`, css: { width: `${(50 * number) / most}%` } });
  const all = d.positive + d.negative;
  const text =
    `${d.name}\n${MINUS} ${short(d.negative_label, 120)}: ${count(d.negative)} (${portion(d.negative, all)})\n` +
    `+ ${short(d.positive_label, 120)}: ${count(d.positive)} (${portion(d.positive, all)})`;
  return withTip(
    el(
      "button",
      { type: "button", class: "pole", "aria-label": `${text}. Show its examples.`, onclick: () => open(d.slug) },
      el("span", { class: "name" }, d.name),
      el("span", { class: "number" }, count(d.negative)),
      el("span", { class: "both" }, bar("negative", d.negative), bar("positive", d.positive)),
      el("span", { class: "number right" }, count(d.positive)),
    ),
    text,
  );
}

function activeFigure(report) {
  const first = report.active.findIndex((number) => number > 0);
  if (first < 0) return null;
  const last = report.active.findLastIndex((number) => number > 0);
  const all = total(report.active);
  const mean = total(report.active.map((number, k) => number * k)) / all;
  const texts = report.active.map(
    (number, k) => `${many(k, "dimension")}\n${many(number, "example")} (${portion(number, all)})`,
  );
  return figure(
    "How many dimensions are active in an example?",
    first === last
      ? `Always ${count(first)}.`
      : `From ${count(first)} to ${count(last)}, ${decimal(mean, 1)} on average.`,
    columns("Examples by active dimensions", report.active.slice(0, last + 1), { texts, marks: middles(last + 1) }),
    { numbers: [["Active dimensions", "Examples"], report.active.map((number, k) => [count(k), count(number)])] },
  );
}

function middles(length) {
  return Array.from({ length }, (_, k) => ({ at: k + 0.5, text: count(k) }));
}

// Correlations.

function correlations(report) {
  const { slugs, strongest, below_half: below } = report.correlation;
  if (slugs.length < 2) return section("correlations", "Correlations", none("Fewer than two dimensions vary."));
  const names = new Map(report.dimensions.map((d) => [d.slug, d.name]));
  const name = (slug) => names.get(slug) ?? slug;
  const [first] = strongest;
  const answer = [
    below !== null &&
      `${percent(below)} of the pairs of dimensions correlate by less than 0.5 (AlignX: ${percent(0.9965)}). `,
    first && `Strongest: ${short(name(first.a), 50)} and ${short(name(first.b), 50)}, ${signed(first.correlation)}.`,
  ];
  const pairs = strongest.map(({ a, b, correlation: value }) => ({
    name: `${short(name(a), 60)} \u00d7 ${short(name(b), 60)}`,
    value,
    text: signed(value),
    kind: value < 0 ? "negative" : "positive",
  }));
  return section(
    "correlations",
    "Correlations",
    figure("Do preferences come in clusters?", answer, heatMap(report, name), {
      how: "Pearson correlation of the levels 1, 0 and \u22121 of two dimensions, over all examples.",
    }),
    figure(
      "Which dimensions move together most?",
      null,
      bars(pairs, Math.max(0.1, ...pairs.map((p) => Math.abs(p.value)))),
      {
        numbers: [
          ["Dimension", "Dimension", "Correlation"],
          strongest.map((p) => [name(p.a), name(p.b), signed(p.correlation)]),
        ],
      },
    ),
  );
}

const SHADES = 10;

function heatMap(report, name) {
  const { slugs, matrix } = report.correlation;
  const group = new Map(report.dimensions.map((d) => [d.slug, d.group]));
  const rank = new Map([...new Set(report.dimensions.map((d) => d.group))].map((g, k) => [g, k]));
  const order = slugs
    .map((_, k) => k)
    .toSorted((a, b) => rank.get(group.get(slugs[a])) - rank.get(group.get(slugs[b])));
  const value = (i, j) => matrix[order[i]][order[j]];
  const cells = order.flatMap((_, i) => order.slice(0, i).map((_, j) => [i, j]));
  const most = scaleEnd(cells.map(([i, j]) => Math.abs(value(i, j))));
  const index = (i, j) => (i * (i - 1)) / 2 + j;

  const map = plot("Correlations of the dimensions", 0, (width) => {
    // A map of few dimensions is small.
    const side = Math.min(width, 620, 60 * order.length);
    const size = side / order.length;
    return {
      height: side,
      marks: cells.map(([i, j]) => ({
        x: j * size,
        y: i * size,
        width: size,
        height: size,
        text: `${short(name(slugs[order[i]]), 60)} \u00d7\n${short(name(slugs[order[j]]), 60)}\n${signed(value(i, j))}`,
      })),
      pick: (x, y) => {
        const [i, j] = [Math.floor(y / size), Math.floor(x / size)];
        return i < order.length && j < i ? index(i, j) : -1;
      },
      step: (at, key) => {
        const [i, j] = cells[at];
        const row = i + ({ ArrowDown: 1, ArrowUp: -1 }[key] ?? 0);
        const column = j + ({ ArrowRight: 1, ArrowLeft: -1, Home: -j, End: i - 1 - j }[key] ?? 0);
        return row < 1 || row >= order.length || column < 0 || column >= row ? at : index(row, column);
      },
      nodes: [
        ...shades(cells, value, most, size),
        ...(size < 12
          ? groupLabels(
              order.map((k) => group.get(slugs[k])),
              size,
              side,
              width,
            )
          : names(
              order.map((k) => name(slugs[k])),
              size,
              width,
            )),
      ],
    };
  });
  const scale = Array.from({ length: 2 * SHADES + 1 }, (_, k) => {
    const kind = k === SHADES ? "nought" : k < SHADES ? "negative" : "positive";
    return el("span", { class: kind, css: { opacity: k === SHADES ? 1 : Math.abs(k - SHADES) / SHADES } });
  });
  return el(
    "div",
    { class: "heat" },
    map,
    el(
      "p",
      { class: "scale" },
      `\u2264 ${signed(-most)}`,
      el("span", { class: "shades" }, scale),
      `\u2265 ${signed(most)}`,
    ),
  );
}

/** Return the end of the colour scale: the 99.5th percentile, so that a few strong ones do not pale the rest. */
function scaleEnd(sizes) {
  const far = sizes.toSorted((a, b) => a - b)[Math.floor(0.995 * (sizes.length - 1))];
  return Math.min(1, Math.max(0.1, Math.ceil(far * 20) / 20));
}

/** Return one path for all cells of a shade: twenty elements instead of four thousand. */
function shades(cells, value, most, size) {
  const paths = new Map();
  const side = (size > 8 ? size - 1 : size).toFixed(2);
  for (const [i, j] of cells) {
    const shade = Math.round(Math.max(-1, Math.min(1, value(i, j) / most)) * SHADES);
    const square = `M${(j * size).toFixed(2)} ${(i * size).toFixed(2)}h${side}v${side}h-${side}z`;
    paths.set(shade, (paths.get(shade) ?? "") + square);
  }
  return [...paths].map(([shade, d]) => {
    const kind = shade === 0 ? "nought" : shade < 0 ? "negative" : "positive";
    return svg("path", { class: `mark ${kind}`, "fill-opacity": shade === 0 ? 1 : Math.abs(shade) / SHADES, d });
  });
}

/** Return the names of dimensions beside the diagonal. */
function names(of, size, width) {
  return of.flatMap((text, k) => {
    const room = Math.floor((width - (k + 0.5) * size - 10) / 7);
    return room > 5 ? label((k + 0.5) * size + 6, (k + 0.5) * size, short(text, Math.min(40, room)), "start") : [];
  });
}

/** Return the names of groups beside the diagonal, where there is room, and the lines between groups. */
function groupLabels(of, size, side, width) {
  const nodes = [];
  for (let start = 0, end; start < of.length; start = end) {
    end = of.findIndex((name, k) => k > start && name !== of[start]);
    if (end < 0) end = of.length;
    if (end < of.length)
      nodes.push(
        rule(0, end * size, end * size, end * size, "between"),
        rule(end * size, end * size, end * size, side, "between"),
      );
    if ((end - start) * size < 12) continue;
    const middle = ((start + end) / 2) * size;
    const room = Math.floor((width - middle - 10) / 7);
    if (room > 5) nodes.push(label(middle + 10, middle, short(spaced(of[start] ?? ""), Math.min(28, room)), "start"));
  }
  return nodes;
}

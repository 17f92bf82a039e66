// Figures of HTML: questions with answers, tables, bars, and tooltips.

// The one tooltip, for pointers and the keyboard.

const tip = {
  show(text, box) {
    const node = document.getElementById("tip");
    if (node.textContent !== visible(text)) node.replaceChildren(visible(text));
    node.classList.add("on");
    const width = node.offsetWidth;
    const left = Math.max(8, Math.min(innerWidth - width - 8, box.left + box.width / 2 - width / 2));
    const above = box.top - node.offsetHeight - 8;
    node.style.left = `${left}px`;
    node.style.top = `${above < 8 ? box.top + box.height + 8 : above}px`;
  },
  hide() {
    document.getElementById("tip").classList.remove("on");
  },
};

/** Show `text` while the pointer or the focus is on `node`. */
function withTip(node, text) {
  const show = () => tip.show(text, node.getBoundingClientRect());
  node.addEventListener("pointerenter", show);
  node.addEventListener("focus", show);
  node.addEventListener("pointerleave", tip.hide);
  node.addEventListener("blur", tip.hide);
  return node;
}

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

/** Let arrow keys move between the buttons of a list, and Tab return to the last focused one. */
function roving(list) {
  list.addEventListener("keydown", (event) => {
    if (!(event.key in STEPS)) return;
    event.preventDefault();
    const all = [...list.querySelectorAll("button")];
    const next = Math.max(0, Math.min(all.length - 1, all.indexOf(document.activeElement) + STEPS[event.key]));
    for (const button of all) button.tabIndex = -1;
    all[next].tabIndex = 0;
    all[next].focus();
  });
  return list;
}

const ABSENT = "\u2013";

/** Return a section of the page without its missing parts. */
function section(id, title, ...parts) {
  const heading = el("h2", { id: `${id}-title` }, title);
  return el("section", { id, "aria-labelledby": heading.id }, heading, el("div", { class: "parts" }, parts));
}

/** Return the text shown where there is nothing to draw. */
function none(text) {
  return el("p", { class: "none" }, text);
}

/** Return a figure: a question, its answer, a drawing, how to read it, and the numbers as a table. */
function figure(question, answer, drawing, { how, numbers, wide } = {}) {
  return el(
    "figure",
    { class: wide ? "figure wide" : "figure" },
    el("h3", {}, question),
    answer && el("p", { class: "answer" }, answer),
    drawing,
    how && el("figcaption", {}, how),
    numbers && unfolded("Numbers", () => table(...numbers)),
  );
}

/** Return a disclosure whose content is made when it is first opened. */
function unfolded(title, make) {
  const details = el("details", { class: "numbers" }, el("summary", {}, title));
  details.addEventListener("toggle", () => details.open && details.children.length === 1 && details.append(make()));
  return details;
}

/** Return a table. Long texts are cut, numbers are right-aligned, and `caption` is for screen readers. */
function table(headings, rows, caption) {
  const isNumber = (column) =>
    rows.every((row) => typeof row[column] === "string" && /^[<>\u2212+\d\u2013]/.test(row[column]));
  const numeric = headings.map((_, column) => column > 0 && isNumber(column));
  const align = (column) => ({ class: numeric[column] && "number" });
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": caption ?? "Table" },
    el(
      "table",
      {},
      caption && el("caption", { class: "unseen" }, caption),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          headings.map((text, k) => el("th", { scope: "col", ...align(k) }, text)),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) =>
          el(
            "tr",
            {},
            row.map((cell, k) => el(k ? "td" : "th", k ? align(k) : { scope: "row" }, short(cell, 160))),
          ),
        ),
      ),
    ),
  );
}

function legend(...entries) {
  return el(
    "p",
    { class: "legend" },
    entries.map(([kind, text]) => el("span", {}, el("span", { class: `swatch ${kind}` }), text)),
  );
}

/** Return horizontal bars of `{name, value, text, kind}`. A value of `most` (default: the largest) fills the track. */
function bars(rows, most = Math.max(1, ...rows.map((row) => row.value))) {
  return el(
    "ul",
    { class: "bars" },
    rows.map((row) => {
      const width = `${(100 * Math.abs(row.value)) / most}%`;
      const bar = row.value !== 0 && el("span", { class: `mark ${row.kind ?? "plain"}`, css: { width } });
      const line = [el("span", { class: "name" }, row.name), el("span", { class: "track" }, bar)];
      return el("li", {}, line, el("span", { class: "value" }, row.text));
    }),
  );
}

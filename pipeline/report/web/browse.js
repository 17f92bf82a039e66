// The browser of examples and rejections: filters, a list, and the selected row.

const BATCH = 60;

/** Return `{part, open(slug)}`: the section, and a function that shows the examples of a dimension. */
function browser(report) {
  const rows = { examples: report.shown, rejections: report.rejections };
  const dimensions = new Map(report.dimensions.map((d) => [d.slug, d]));
  const kept = new Map();
  let kind = rows.examples.length || !rows.rejections.length ? "examples" : "rejections";
  let found = [];
  let drawn = 0;
  let at = -1;

  const search = el("input", {
    type: "search",
    id: "search",
    placeholder: "Words in any text",
    oninput: () => update(),
  });
  const split = choice("split", () => update());
  const dimension = choice("dimension", () => (offerLevels(), update()));
  const level = choice("direction", () => update());
  const reason = choice("reason", () => update());
  const pairKind = choice("kind", () => update());
  const user = choice("user", () => update());
  const filters = [split, dimension, level, pairKind, user, reason];
  const person = el("div", { id: "user-card" });
  const said = el("p", { class: "said", role: "status" });
  const list = el("ul", {
    role: "listbox",
    tabindex: 0,
    id: "list",
    "aria-label": "Rows",
    onkeydown: onKey,
    onscroll: onScroll,
    onclick: onClick,
  });
  const shown = el("div", { id: "row", tabindex: -1, role: "region", "aria-label": "Row", onkeydown: onEscape });
  const tabs = ["examples", "rejections"].map((name) =>
    el(
      "button",
      { type: "button", "data-kind": name, onclick: () => turnTo(name) },
      `${name === "examples" ? "Examples" : "Rejections"} `,
      el("span", {}, count(rows[name].length)),
    ),
  );
  const reset = el("button", { type: "button", class: "plain", id: "clear", onclick: clear }, "Clear");

  function haystack(row) {
    if (!kept.has(row)) kept.set(row, SEARCHED[kind](row).join("\n").toLowerCase());
    return kept.get(row);
  }

  function wanted() {
    return search.value.toLowerCase().split(/\s+/).filter(Boolean);
  }

  function passes(row, sought) {
    const slug = dimension.chosen();
    return (
      (split.chosen() === null || row.split === split.chosen()) &&
      (slug === null || Object.hasOwn(row.direction, slug)) &&
      (level.chosen() === null || row.direction[slug] === level.chosen()) &&
      (kind === "examples"
        ? (pairKind.chosen() === null || row.kind === pairKind.chosen()) &&
          (user.chosen() === null || row.user_id === user.chosen())
        : reason.chosen() === null || row.reason === reason.chosen()) &&
      sought.every((word) => haystack(row).includes(word))
    );
  }

  function update() {
    const sought = wanted();
    found = rows[kind].filter((row) => passes(row, sought));
    list.replaceChildren();
    drawn = 0;
    more();
    list.scrollTop = 0;
    const every = rows[kind].length;
    said.replaceChildren(
      found.length === every ? `${count(every)} on this page` : `${count(found.length)} of ${count(every)}`,
    );
    const own = kind === "examples" && user.chosen() ? rows.examples.filter((row) => row.user_id === user.chosen()) : [];
    person.replaceChildren(...(own.length ? [userCard(own, dimensions)] : []));
    show(found.length ? 0 : -1);
  }

  /** Draw the next rows of the list. Thousands at once would make every key press slow. */
  function more() {
    const batch = found.slice(drawn, drawn + BATCH);
    list.append(...batch.map((row, k) => option(row, drawn + k)));
    drawn += batch.length;
  }

  function show(index) {
    list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    at = index;
    while (drawn <= at) more();
    const chosen = list.children[at];
    if (!chosen) {
      list.removeAttribute("aria-activedescendant");
      shown.replaceChildren(none(rows[kind].length ? "No row matches." : `There are no ${kind} to show.`));
      return;
    }
    chosen.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", chosen.id);
    keepInView(chosen);
    const make = kind === "examples" ? exampleView : rejectionView;
    shown.replaceChildren(turner(), make(found[at], dimensions, wanted(), openUser));
    shown.scrollTop = 0;
  }

  /** Scroll the list only: `scrollIntoView` would also move the page. */
  function keepInView(item) {
    const above = item.offsetTop - list.scrollTop;
    if (above < 0) list.scrollTop = item.offsetTop;
    else if (above + item.offsetHeight > list.clientHeight)
      list.scrollTop += above + item.offsetHeight - list.clientHeight;
  }

  function turner() {
    const turn = (text, by) =>
      el("button", { type: "button", class: "plain", disabled: !found[at + by], onclick: () => show(at + by) }, text);
    return el(
      "p",
      { class: "turner" },
      turn("\u2190 Previous", -1),
      el("span", {}, `${count(at + 1)} / ${count(found.length)}`),
      turn("Next \u2192", 1),
    );
  }

  function onKey(event) {
    const steps = { ...STEPS, PageDown: 10, PageUp: -10, ArrowLeft: undefined, ArrowRight: undefined };
    if (event.key === "Enter" && at >= 0) {
      event.preventDefault();
      shown.focus();
    } else if (event.key === "Escape") search.focus();
    else if (steps[event.key] && found.length) {
      event.preventDefault();
      show(Math.max(0, Math.min(found.length - 1, at + steps[event.key])));
    }
  }

  function onEscape(event) {
    if (event.key === "Escape") list.focus();
  }

  function onScroll() {
    if (drawn < found.length && list.scrollTop + list.clientHeight > list.scrollHeight - 400) more();
  }

  function onClick(event) {
    const item = event.target.closest("[role=option]");
    if (!item) return;
    show([...list.children].indexOf(item));
    // Where list and row are stacked, the row would open outside the view.
    if (getComputedStyle(list.parentNode).gridTemplateColumns.split(" ").length === 1) shown.focus();
  }

  function offerLevels() {
    const d = dimensions.get(dimension.chosen());
    level.offer(
      "Either pole",
      d
        ? [
            [1, `+ ${d.positive_label}`],
            [-1, `${MINUS} ${d.negative_label}`],
          ]
        : [],
    );
    level.node.disabled = !d;
  }

  function offer() {
    const tally = (keys) => Map.groupBy(rows[kind].flatMap(keys), (key) => key);
    const counted = (found) => [...found].map(([key, all]) => [key, `${key} (${count(all.length)})`]);
    split.offer("All splits", counted(tally((row) => [row.split])));
    const active = tally((row) => Object.keys(row.direction));
    const size = (slug) => count(active.get(slug)?.length ?? 0);
    const named = report.dimensions.filter((d) => d.positive + d.negative || active.has(d.slug));
    dimension.offer(
      "All dimensions",
      named.map((d) => [d.slug, `${short(d.name, 60)} (${size(d.slug)})`, spaced(d.group)]),
    );
    offerLevels();
    const reasons = kind === "rejections" ? counted(tally((row) => [row.reason])).sort() : [];
    reason.offer("All reasons", reasons);
    reason.label.hidden = kind !== "rejections";
    const ofKind = counted(tally((row) => (row.kind ? [row.kind] : [])));
    pairKind.offer("All kinds", ofKind);
    pairKind.label.hidden = ofKind.length < 2;
    // All ids begin with the build's fingerprint.
    const ofUser = counted(tally((row) => (row.user_id ? [row.user_id] : []))).sort();
    user.offer(
      "All users",
      ofUser.map(([id, text]) => [id, text.replace(/^[0-9a-f]{8}-/, "")]),
    );
    user.label.hidden = !ofUser.length;
    for (const tab of tabs) tab.setAttribute("aria-pressed", tab.dataset.kind === kind);
  }

  function turnTo(name) {
    kind = name;
    offer();
    update();
  }

  function clear() {
    search.value = "";
    for (const each of filters) each.choose(null);
    offerLevels();
    update();
    search.focus();
  }

  function open(slug) {
    search.value = "";
    turnTo("examples");
    for (const each of filters) each.choose(null);
    dimension.choose(slug);
    offerLevels();
    update();
    document.getElementById("browse").scrollIntoView();
    list.focus({ preventScroll: true });
  }

  /** Show all rows of a user. */
  function openUser(id) {
    search.value = "";
    for (const each of filters) each.choose(null);
    user.choose(id);
    offerLevels();
    update();
    list.focus();
  }

  if (!report.shown.length && !report.rejections.length)
    return { part: browseSection(none("There are no rows to show.")), open() {} };
  offer();
  update();
  const node = el(
    "div",
    { class: "browser" },
    browseNote(report),
    el("div", { class: "tabs", role: "group", "aria-label": "What to browse" }, tabs),
    el(
      "div",
      { class: "filters", role: "search", "aria-label": "Filters" },
      el("label", { class: "grow" }, el("span", {}, "Search"), search),
      filters.map((each) => each.label),
      reset,
    ),
    said,
    person,
    el("div", { class: "sides" }, list, shown),
  );
  return { part: browseSection(node), open };
}

function browseSection(content) {
  return section("browse", "Examples and rejections", content);
}

function browseNote(report) {
  return el(
    "p",
    { class: "answer" },
    `${count(report.shown.length)} of ${count(report.examples)} examples and `,
    `${count(report.rejections.length)} rejected rows are on this page. `,
    el("code", {}, "everyuser inspect DIR --row ID"),
    " shows any other example.",
  );
}

/** Return a labelled `<select>`. `offer(none, [[value, text, group]])` replaces its options and keeps the choice. */
function choice(name, onchange) {
  let values = [null];
  const node = el("select", { id: name, onchange });
  const chosen = () => values[node.selectedIndex] ?? null;
  const choose = (value) => (node.selectedIndex = Math.max(0, values.indexOf(value)));
  const offer = (none, entries) => {
    const before = chosen();
    const option = ([, text]) => el("option", {}, short(text, 80));
    const parts = [...Map.groupBy(entries, (entry) => entry[2])];
    values = [null, ...parts.flatMap(([, members]) => members.map((entry) => entry[0]))];
    node.replaceChildren(
      el("option", {}, none),
      ...parts.flatMap(([group, members]) =>
        group === undefined ? members.map(option) : [el("optgroup", { label: short(group, 60) }, members.map(option))],
      ),
    );
    choose(before);
  };
  const label = el("label", {}, el("span", {}, name.charAt(0).toUpperCase() + name.slice(1)), node);
  return { node, label, chosen, choose, offer };
}

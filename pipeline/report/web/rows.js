// A row of the dataset: its entry in the list, and the whole row.

/** Return the texts of a row that the search covers. */
const SEARCHED = {
  examples: (row) => [
    row.id,
    row.prompt,
    row.chosen,
    row.rejected,
    row.portrait,
    row.profile,
    row.user_id,
    ...row.history.flatMap((item) => [item.prompt, item.chosen, item.rejected, item.profile]),
  ],
  rejections: (row) => [row.id, row.prompt, row.reason, row.detail, ...row.texts, ...row.cleaned],
};

/** Return the first line of a post, which is its title where it has one. */
function title(prompt) {
  return prompt.trim().split("\n", 1)[0];
}

function option(row, index) {
  const tags = [
    row.split,
    row.mirrored && "mirror image",
    isSpecial(row.kind) && row.kind,
    row.user_id,
    row.reason,
  ].filter(Boolean);
  return el(
    "li",
    { role: "option", id: `row-${index}`, "aria-selected": "false", "data-id": row.id },
    el("span", { class: "line", dir: "auto" }, short(title(row.prompt), 120)),
    el(
      "span",
      { class: "meta" },
      tags.map((text) => el("span", {}, short(text, 60))),
    ),
  );
}

function exampleView(row, dimensions, sought, openUser) {
  const facts = [
    row.split,
    row.source,
    isSpecial(row.kind) && row.kind,
    row.mirrored && "mirror image",
    `history supports ${percent(row.history_support)} of the direction`,
  ];
  const all = () => openUser(row.user_id);
  return el(
    "article",
    {},
    rowHead(row, facts),
    row.user_id &&
      el("p", {}, el("button", { type: "button", class: "plain", onclick: all }, `All pairs of ${row.user_id}`)),
    isSpecial(row.kind) && el("p", { class: "why" }, KINDS[row.kind][1]),
    chips(row.direction, dimensions),
    text("Post", row.prompt, sought),
    el(
      "div",
      { class: "two" },
      text("Chosen", row.chosen, sought, "chosen"),
      text("Rejected", row.rejected, sought, "rejected"),
    ),
    text("Portrait", row.portrait, sought),
    text("Profile", row.profile, sought),
    row.history.length > 0 && el("h4", {}, `History, ${many(row.history.length, "item")}`),
    row.history.map((item) => historyItem(item, sought)),
  );
}

function rejectionView(row, dimensions, sought) {
  const facts = [row.split, `attempt ${row.attempt + 1}`, row.final && "last attempt: the pair was lost"];
  const found = el(
    "p",
    { class: "why" },
    el("strong", {}, marked(row.reason, sought)),
    row.detail && " \u2014 ",
    marked(row.detail, sought),
  );
  return el(
    "article",
    {},
    rowHead(row, facts),
    found,
    chips(row.direction, dimensions),
    row.prompt && text("Post", row.prompt, sought),
    el(
      "div",
      { class: "two" },
      row.texts.map((reply, k) => {
        const cleaned = row.cleaned[k] ?? reply;
        const judged = cleaned !== reply && text(`Text ${k + 1}, cleaned`, cleaned, sought);
        return el("div", {}, text(`Text ${k + 1}`, reply, sought), judged);
      }),
    ),
    !row.texts.length && none("The model returned no text."),
  );
}

function rowHead(row, facts) {
  return el(
    "header",
    {},
    el("h3", {}, row.id),
    el(
      "p",
      { class: "meta" },
      facts.filter(Boolean).map((fact) => el("span", {}, short(fact, 80))),
    ),
  );
}

function chips(direction, dimensions, name = "Direction") {
  if (!Object.keys(direction).length) return null;
  return el(
    "ul",
    { class: "chips", "aria-label": name },
    Object.entries(direction).map(([slug, level]) => {
      const d = dimensions.get(slug);
      const label = d ? (level > 0 ? d.positive_label : d.negative_label) : slug;
      return el(
        "li",
        { class: level > 0 ? "positive" : "negative", title: d?.name },
        level > 0 ? "+ " : `${MINUS} `,
        short(label, 120),
      );
    }),
  );
}

function text(name, content, sought, kind = "") {
  return el(
    "section",
    { class: `text ${kind}` },
    el("h4", {}, name, el("span", {}, many(words(content), "word"))),
    el("p", { class: "prose", dir: "auto" }, marked(content, sought)),
  );
}

function historyItem(item, sought) {
  const isPair = item.rejected !== "";
  const hit =
    sought.length > 0 &&
    sought.some((word) => [item.prompt, item.chosen, item.rejected].join("\n").toLowerCase().includes(word));
  return el(
    "details",
    { class: "item", open: hit },
    el(
      "summary",
      {},
      el("span", { class: "tag" }, isPair ? "pair" : "comment"),
      el("span", { dir: "auto" }, short(title(item.prompt), 120)),
    ),
    el("p", { class: "meta" }, short(item.profile, 300)),
    text("Post", item.prompt, sought),
    isPair
      ? el(
          "div",
          { class: "two" },
          text("Chosen", item.chosen, sought, "chosen"),
          text("Rejected", item.rejected, sought, "rejected"),
        )
      : text("Comment", item.chosen, sought),
  );
}

/** Return the text in pieces, with the searched words marked. */
function marked(content, sought) {
  if (!sought.length) return [content];
  const pattern = new RegExp(`(${sought.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "giu");
  return content.split(pattern).map((piece, k) => (k % 2 ? el("mark", {}, piece) : piece));
}

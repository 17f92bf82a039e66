// Sections about texts: lengths, duplicates, diversity, contamination and copies.

function lengths(report) {
  const { prompt, chosen, rejected, portrait, comment, length_ratio: ratio } = report.lengths;
  const kinds = [
    ["Post", prompt],
    ["Chosen reply", chosen],
    ["Rejected reply", rejected],
    ["Portrait", portrait],
    ["History item", comment],
  ].filter(([, given]) => given !== null);
  if (!report.examples) return section("lengths", "Lengths and length bias", none("There are no texts to measure."));
  const panel = (name, given, unit, places) =>
    el("div", {}, el("h4", {}, name), histogram(`${name}: ${unit}`, given, unit, places));
  const line = (name, given, places) => [
    name,
    ...[given.mean, given.median, given.p95, given.largest].map((value) => decimal(value, places)),
  ];
  return section(
    "lengths",
    "Lengths and length bias",
    figure(
      "How long are the texts?",
      `The median chosen reply has ${count(chosen.median)} words, the median rejected one ` +
        `${count(rejected.median)}. The longer reply of a pair is ${decimal(ratio.median)} times as long (median).`,
      el(
        "div",
        { class: "panels" },
        kinds.map(([name, given]) => panel(name, given, " words")),
        panel("Longer reply / shorter", ratio, " times", 2),
      ),
      {
        wide: true,
        how: "Words; for the ratio, characters. The line is the median. The last column also counts all larger values.",
        numbers: [
          ["Text", "Mean", "Median", "95th percentile", "Largest"],
          [...kinds.map(([name, given]) => line(name, given, 1)), line("Longer reply / shorter", ratio, 2)],
        ],
      },
    ),
    biasFigure(report),
  );
}

const FARTHEST = 24;

function biasFigure(report) {
  const known = lengthBias(report);
  const { length_auc: auc, longer_chosen_unmirrored: longer } = report.lengths;
  const far = (limit) => count(known.filter(({ beyond }) => beyond > limit).length);
  const answer =
    `The longer reply is the chosen one in ${percent(longer)} of the rows that are not mirrored, and in ` +
    `${percent(auc)} of all rows. A pole is biased beyond chance in ${far(0)} of ` +
    `${many(known.length, "dimension")}, by more than ${GIVEN_AWAY} in ${far(GIVEN_AWAY)}.`;
  const list = el("ul", { class: "dots" });
  const farthest = Math.max(0, ...known.flatMap((d) => d.poles.map((pole) => Math.abs(pole.auc - 0.5))));
  const reach = Math.min(0.5, Math.max(0.2, Math.ceil(10 * farthest + 0.2) / 10));
  const draw = (number) => list.replaceChildren(...known.slice(0, number).map((d) => dots(d, reach)));
  draw(FARTHEST);
  const all = () => (draw(known.length), more.remove());
  const more = el("button", { type: "button", class: "plain", onclick: all }, `Show all ${count(known.length)}`);
  const drawing = el(
    "div",
    {},
    legend(
      ["negative dot", "negative pole"],
      ["positive dot", "positive pole"],
      ["band", "within chance"],
      ["middle", `0.5; from ${decimal(0.5 - reach, 1)} on the left to ${decimal(0.5 + reach, 1)} on the right`],
    ),
    list,
    known.length > FARTHEST && more,
  );
  const poles = known.flatMap((d) => d.poles);
  return figure("Does length reveal the preference?", answer, known.length > 0 && drawing, {
    wide: true,
    how:
      "How often people of a pole prefer the longer reply, from 0 (never) to 1 (always). The band holds 999 of 1,000 " +
      "unbiased poles with as many examples. Dimensions farthest beyond it come first.",
    numbers: known.length > 0 && [
      ["Pole", "Longer preferred (AUC)", "Examples", "Beyond chance"],
      poles.map((p) => [p.label, decimal(p.auc, 3), count(p.number), p.beyond > 0 ? signed(p.beyond) : ABSENT]),
    ],
  });
}

/** Return a dimension's line: the band of chance and a dot for each pole. */
function dots({ name, poles, beyond }, reach) {
  const band = Math.min(1, chance(Math.min(...poles.map((pole) => pole.number))) / reach);
  const dot = ({ level, auc }) =>
    el("span", {
      class: `mark dot ${level > 0 ? "positive" : "negative"}`,
      css: { left: `${50 + (50 * (auc - 0.5)) / reach}%` },
    });
  const said = ({ label, auc, number }) => `${short(label, 120)}: ${decimal(auc)} of ${many(number, "example")}`;
  return withTip(
    el(
      "li",
      { class: beyond > 0 && "far" },
      el("span", { class: "name" }, short(name, 90)),
      el(
        "span",
        { class: "track" },
        el("span", { class: "chance", css: { left: `${50 - 50 * band}%`, width: `${100 * band}%` } }),
        poles.map(dot),
      ),
      el("span", { class: "value" }, decimal(poles[0].auc)),
    ),
    [name, ...poles.map(said)].join("\n"),
  );
}

function duplicates(report) {
  const d = report.duplicates;
  if (!d.replies) return section("duplicates", "Duplicates", none("There are no replies to compare."));
  const rows = [
    ["Equal replies", count(d.exact_within), count(d.exact_across), count(d.replies)],
    ["Near-duplicates", count(d.near_within), count(d.near_across), `${count(d.near_sampled)} compared`],
    ["Equal posts", ABSENT, count(d.posts_across), count(report.posts)],
  ];
  const shared = [
    many(d.posts_across, "post"),
    `${count(d.exact_across)} equal`,
    `${count(d.near_across)} similar replies`,
  ];
  const answer =
    d.posts_across + d.exact_across + d.near_across
      ? `Two splits share ${shared[0]}, ${shared[1]} and ${shared[2]}.`
      : "No two splits share a post, a reply or a near-duplicate.";
  return section(
    "duplicates",
    "Duplicates",
    figure("Do texts occur twice?", answer, table(["", "Within a split", "In two splits", "Of"], rows, "Duplicates"), {
      how:
        "Near-duplicates share word trigrams with an earlier reply: a Jaccard similarity, estimated by MinHash, of " +
        `${decimal(d.near_threshold)} or more.`,
    }),
    d.examples.length > 0 &&
      figure(
        "What do near-duplicates look like?",
        null,
        el(
          "ol",
          { class: "twins" },
          d.examples.map(([a, b]) => el("li", {}, quote(a), quote(b))),
        ),
        { wide: true },
      ),
  );
}

function quote(text) {
  return el("blockquote", { dir: "auto" }, short(text, 800));
}

function quotes(texts) {
  return el("div", { class: "quotes" }, texts.map(quote));
}

function diversity(report) {
  const d = report.diversity;
  if (!d.sampled) return section("diversity", "Diversity", none("There were no replies to sample."));
  const rows = [
    ...d.distinct.map((share, k) => [
      `Distinct ${k + 1}-grams`,
      percent(share),
      `of all in ${count(d.sampled)} replies; higher is more diverse`,
    ]),
    ["Compression ratio", decimal(d.compression_ratio), "by zlib; higher is more repetitive"],
    d.self_bleu !== null && [
      "Self-BLEU",
      decimal(d.self_bleu, 3),
      `of ${count(d.self_bleu_sampled)} replies against others; lower is more diverse`,
    ],
    d.vendi !== null && [
      "Vendi score",
      decimal(d.vendi, 1),
      `effective number of different replies, of ${count(d.vendi_sampled)}; at most 256` +
        (d.embedder ? `; by ${d.embedder}` : ""),
    ],
    ["Distinct directions", count(d.distinct_directions), `of ${many(report.examples, "example")}`],
  ].filter(Boolean);
  return section(
    "diversity",
    "Diversity",
    figure("How much do replies differ?", null, table(["Measure", "Value", "How to read it"], rows, "Diversity")),
    d.vendi === null && none("No Vendi score: the replies could not be embedded."),
  );
}

function contamination(report) {
  const files = report.contamination;
  if (!files.length)
    return section("contamination", "Contamination", none(
        "The texts were not compared with a benchmark. `everyuser report DIR --benchmark FILE` searches the dataset " +
          "for a benchmark's texts.",
      ));
  const rows = files.map((f) => [
    f.file,
    count(f.rows),
    count(f.words),
    `${count(f.posts)} (${portion(f.posts, report.posts)})`,
    `${count(f.replies)} (${portion(f.replies, report.examples)})`,
  ]);
  const headings = ["File", "Its rows", "Words in a row", "Posts that overlap", "Rows with a reply that overlaps"];
  return section(
    "contamination",
    "Contamination",
    figure("Does the dataset contain texts of benchmarks?", null, table(headings, rows, "Contamination"), {
      wide: true,
    }),
    files
      .filter((f) => f.examples.length)
      .map((f) => figure(`What is shared with ${short(f.file, 60)}?`, null, quotes(f.examples))),
  );
}

function copies(report) {
  const { label: labels, portrait, examples } = report.copies;
  if (!report.pairs) return section("copies", "Persona copies", none("There are no replies to check."));
  const rows = [
    { name: "Label of an active dimension", value: labels, text: percent(labels) },
    { name: "Six words of a portrait", value: portrait, text: percent(portrait) },
  ];
  const drawn = bars(rows, Math.max(0.05, labels, portrait));
  return section(
    "copies",
    "Persona copies",
    figure("Do replies repeat the words that describe the person?", null, drawn, {
      how: "Share of the pairs with such a reply. A model can match these words instead of the persona.",
    }),
    examples.length > 0 && figure("What was copied?", null, quotes(examples)),
  );
}

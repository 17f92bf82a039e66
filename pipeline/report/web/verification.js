// Section about what a judge found in the replies.

/** Return a difference with its sign and three decimals. */
function finely(number) {
  return (number > 0 ? "+" : "") + decimal(number, 3);
}

/** Return an estimate's interval in words. */
function interval({ low, high }, say) {
  return low === null ? "" : ` (95${THIN}% interval ${say(low)} to ${say(high)})`;
}

function verification(report) {
  const { verification: v, second_judge: second } = report;
  if (!v && !second)
    return section("verification", "Directions checked", none(
        "No judge has checked what the replies show; the directions are those that were asked for. A build with " +
          "`verification: {mode: record}` asks one, and so does `everyuser report DIR --judge`.",
      ));
  return section(
    "verification",
    "Directions checked",
    v && [
      recoveryFigure(report, v),
      calibrationFigure(v),
      driftFigure(report, v),
      v.quality_gap && qualityFigure(v),
      judgedFigure(report.counts.verification),
    ],
    second && [second.found && secondFigure(second), second.swap && swapFigure(second)],
  );
}

/** Steps of a quality of 1 in `quality_gaps`. */
const QUALITY_STEPS = 10000;

function judgedFigure(c) {
  const rows = [
    ["Pairs judged", count(c.pairs), `with ${many(c.questions, "question")}`],
    ["Asked dimensions recovered", count(c.recovered), `of ${count(c.asked)}; the margin has the asked sign`],
    ["Asked dimensions verified", count(c.verified), "of the same; the margin is above min_margin"],
    ["Dimensions outside the direction that drifted", count(c.drifted), `of ${count(c.drift_asked)}`],
    ["Dimensions of accepted pairs kept", count(c.kept), `and ${count(c.neutral)} made neutral`],
    [
      "Mean difference in quality of the two replies",
      c.quality_pairs ? decimal(c.quality_gaps / c.quality_pairs / QUALITY_STEPS) : "",
      `of ${many(c.quality_pairs, "pair")} with both qualities`,
    ],
    ["Questions answered by votes", count(c.voted), "of all; the judge gave no log-probabilities for these"],
    ["Prompt tokens", count(c.prompt_tokens), "of the judge, among those of the build"],
    ["Completion tokens", count(c.completion_tokens), "the same"],
  ];
  return figure(
    "What was judged?",
    `${many(c.pairs, "pair")}, of which ${count(c.pairs_accepted)} were accepted.`,
    table(["What", "Number", ""], rows, "All pairs that were judged"),
  );
}

/** Return a table's line about an estimated share. */
function shareLine(name, share, how) {
  return [name, percent(share.value), `${percent(share.low)} to ${percent(share.high)}`, count(share.number), how];
}

const SHARES = ["Share", "Value", `95${THIN}% interval`, "Of", "How to read it"];

function secondFigure({ found, agreement, sampled, unanswered, recovery_by_kind: byKind }) {
  const { recovery, recovery_after: after, drift } = found;
  const kinds = Object.entries(byKind);
  const rows = [
    shareLine("Asked dimensions found", recovery, "before filtering; guessing gives 50\u202f%"),
    after && shareLine("Kept dimensions found", after, "after filtering; where no dimension was dropped, the same"),
    agreement && shareLine("Agreement with the first judge", agreement, "on asked dimensions, by the margin's sign"),
    drift && shareLine("Drift where nobody asked", drift, `margins beyond ${decimal(found.drift_margin)}`),
    ...(kinds.length > 1 ? kinds : []).map(([kind, share]) =>
      shareLine(`Found in ${kind} pairs`, share, "of the asked dimensions"),
    ),
  ].filter(Boolean);
  return figure(
    "What does a judge find who is asked anew?",
    `${short(found.judge, 100)} finds ${percent(recovery.value)}${interval(recovery, percent)} of the dimensions that ` +
      `the replies of ${many(found.pairs, "pair")} were asked to show.`,
    table(SHARES, rows, "Second judge"),
    {
      wide: true,
      how:
        `Of a sample of ${many(sampled, "pair")} of the finished build (${count(unanswered)} unanswered). This judge had ` +
        "no part in filtering, so what it finds of the kept dimensions tells whether filtering worked.",
    },
  );
}

function swapFigure({ swap, restraint }) {
  const rows = [
    shareLine("Own reply preferred", swap.preferred, "given a portrait; guessing gives 50\u202f%"),
    swap.both && shareLine("Under both portraits", swap.both, "the preference turns round with the person"),
    ["No preference", percent(swap.undecided), ABSENT, ABSENT, "the likeliest answer, or both replies alike"],
    ["Same answer in both orders", percent(swap.order_agreement), ABSENT, ABSENT, "of the replies"],
  ].filter(Boolean);
  return figure(
    "Does the preference follow the portrait?",
    `Given a portrait, the judge prefers the reply of that person in ${percent(swap.preferred.value)}` +
      `${interval(swap.preferred, percent)} of the cases.`,
    table(SHARES, rows, "Persona swap"),
    {
      wide: true,
      how:
        "Persona swap: the judge reads a portrait and both replies, in both orders, and may have no preference. The " +
        "chosen reply belongs to the portrait of the pair, the rejected one to the opposite portrait." +
        (restraint ? ` Left out are ${many(restraint, "restraint pair")}: a plain answer suits every person.` : ""),
    },
  );
}

/** Return the dimensions with an asked pole, the worst first: `{name, poles, worst}`. */
function recoveredDimensions(report, v) {
  const known = new Map(report.dimensions.map((d) => [d.slug, d]));
  return v.dimensions
    .map(({ slug, positive, negative }) => {
      const { name, positive_label, negative_label } = known.get(slug);
      const poles = [
        positive && { label: positive_label, level: 1, ...positive },
        negative && { label: negative_label, level: -1, ...negative },
      ]
        .filter(Boolean)
        .sort((a, b) => a.recovery.value - b.recovery.value);
      return { name, poles, worst: poles[0] };
    })
    .filter(({ poles }) => poles.length)
    .sort((a, b) => a.worst.recovery.value - b.worst.recovery.value);
}

function recoveryFigure(report, v) {
  const found = recoveredDimensions(report, v);
  const answer = [
    `${v.judge} finds ${percent(v.recovery.value)}${interval(v.recovery, percent)} of the ` +
      `${count(v.recovery.number)} dimensions that the replies of ${many(v.pairs, "pair")} were asked to show, before ` +
      "filtering.",
    v.made_neutral > 0 &&
      ` In the accepted pairs ${count(v.made_neutral)} were not found clearly enough, and made neutral.`,
    v.order_agreement !== null &&
      ` All orders of the options gave the same answer to ${percent(v.order_agreement)} of the questions.`,
  ].filter(Boolean);
  const list = el("ul", { class: "dots" });
  const draw = (number) => list.replaceChildren(...found.slice(0, number).map(recoveryLine));
  draw(FARTHEST);
  const all = () => (draw(found.length), more.remove());
  const more = el("button", { type: "button", class: "plain", onclick: all }, `Show all ${count(found.length)}`);
  const drawing = el(
    "div",
    {},
    legend(
      ["negative dot", "negative pole"],
      ["positive dot", "positive pole"],
      ["band", `95${THIN}% interval of the worse pole`],
      ["middle", `50${THIN}%, which guessing gives`],
    ),
    list,
    found.length > FARTHEST && more,
  );
  const poles = found.flatMap((d) => d.poles);
  return figure("Do the replies show what was asked?", short(answer.join(""), 1500), drawing, {
    wide: true,
    how:
      "Recovery of each dimension: the share of the pairs whose chosen reply, by the judge, shows the asked pole more " +
      "than the other reply does, also of rejected pairs. The mean margin says by how much, from \u22122 to 2. Intervals " +
      "count posts, not pairs. The worst dimensions come first; marked are those in which replies do not show a pole.",
    numbers: [
      ["Pole", "Recovered", "From", "To", "Mean margin", "From", "To", "Asked", "Kept in accepted pairs"],
      poles.map(({ label, recovery: r, margin: m, kept }) => [
        label,
        percent(r.value),
        percent(r.low),
        percent(r.high),
        finely(m.value),
        m.low === null ? ABSENT : finely(m.low),
        m.high === null ? ABSENT : finely(m.high),
        count(r.number),
        count(kept),
      ]),
    ],
  });
}

function recoveryLine({ name, poles, worst }) {
  const { low, high, value } = worst.recovery;
  const dot = ({ level, recovery }) =>
    el("span", {
      class: `mark dot ${level > 0 ? "positive" : "negative"}`,
      css: { left: `${100 * recovery.value}%` },
    });
  const said = ({ label, recovery: r, margin: m }) =>
    `${short(label, 120)}: ${percent(r.value)} of ${count(r.number)}${interval(r, percent)}, ` +
    `mean margin ${finely(m.value)}${interval(m, finely)}`;
  return withTip(
    el(
      "li",
      { class: (high < 0.5 || poles.some(isUnshown)) && "far" },
      el("span", { class: "name" }, short(name, 90)),
      el(
        "span",
        { class: "track" },
        el("span", { class: "chance", css: { left: `${100 * low}%`, width: `${100 * (high - low)}%` } }),
        poles.map(dot),
      ),
      el("span", { class: "value" }, `${Math.round(100 * value)}${THIN}%`),
    ),
    [name, ...poles.map(said)].join("\n"),
  );
}

function calibrationFigure({ calibration: bins }) {
  const share = (bin) => (100 * bin.recovered) / bin.asked;
  const range = ({ low, high }) => `${decimal(low)} to ${decimal(high)}`;
  const [first, last] = [bins[0], bins.at(-1)];
  const answer =
    bins.length > 1
      ? `Of the smallest margins ${percent(share(first) / 100)} have the asked sign, ` +
        `of the largest ${percent(share(last) / 100)}.`
      : "All margins are equal.";
  const texts = bins.map((bin) => `margin ${range(bin)}\n${percent(share(bin) / 100)} of ${count(bin.asked)}`);
  return figure(
    "Is a larger margin more often right?",
    answer,
    columns(
      "Recovery in percent by margin",
      bins.map(share),
      { texts, marks: bins.map((bin, k) => ({ at: k, text: decimal(bin.low) })) },
    ),
    {
      how:
        "Asked dimensions in percent whose margin has the asked sign, in bins of equal numbers by the size of the " +
        `margin. A judge who guesses has 50${THIN}% in every bin.`,
      numbers: [
        ["Margin", "Recovered", "Asked"],
        bins.map((bin) => [range(bin), percent(share(bin) / 100), count(bin.asked)]),
      ],
    },
  );
}

const MOST_DRIFT = 12;

function driftFigure(report, { drift, drift_margin: margin, dimensions }) {
  if (!drift) return null;
  const names = new Map(report.dimensions.map((d) => [d.slug, d.name]));
  const rows = dimensions
    .filter((d) => d.drifted)
    .map((d) => ({
      name: short(names.get(d.slug), 60),
      value: d.drifted / d.undirected,
      text: `${percent(d.drifted / d.undirected)} of ${count(d.undirected)}`,
    }))
    .sort((a, b) => b.value - a.value)
    .slice(0, MOST_DRIFT);
  return figure(
    "Do replies differ where nobody asked?",
    `In ${percent(drift.value)}${interval(drift, percent)} of ${count(drift.number)} dimensions outside the direction, ` +
      `the margin is beyond ${decimal(margin)}.`,
    rows.length > 0 && bars(rows, Math.max(0.05, ...rows.map((row) => row.value))),
    { how: "Such a difference is another reason to prefer one of the replies. The worst dimensions are shown." },
  );
}

function qualityFigure({ quality, quality_gap: gap, quality_distance: distance }) {
  const rows = [
    ["Quality of all replies", decimal(quality, 3), "from 0 to 1, judged without the persona"],
    ["Chosen less rejected", finely(gap.value), `0 is no bias${interval(gap, finely)}`],
    ["Absolute difference in a pair", decimal(distance, 3), "0 if both replies are equally good"],
  ];
  return figure(
    "Are both replies equally good?",
    `The chosen reply is better by ${finely(gap.value)} on average${interval(gap, finely)}.`,
    table(["Measure", "Value", "How to read it"], rows, "Quality"),
    { how: "A pair should differ in the person who prefers it, not in being good." },
  );
}

// Section about the kinds of pairs: what the rejected reply is.

const KINDS = {
  opposite: ["Opposite person", "The rejected reply was written for the opposite person."],
  near: [
    "Near neighbour",
    "The rejected reply was written for a near neighbour: a person who differs in the direction of this row alone.",
  ],
  restraint: [
    "Restraint",
    "The person should not matter for this post: the chosen reply answers plainly, the rejected one shows the person.",
  ],
  mined: ["Mined", "The rejected reply is another one of the thread."],
};

/** Return whether a kind needs an explanation: the others are those of any build. */
function isSpecial(kind) {
  return kind === "near" || kind === "restraint";
}

function kinds(report) {
  const found = report.kinds;
  if (!found.some(({ kind }) => isSpecial(kind))) return null;
  return section("kinds", "Kinds of pairs", kindShares(found), kindFindings(report));
}

function kindShares(found) {
  const all = total(found.map((k) => k.pairs));
  const rows = found.map((k) => ({
    name: KINDS[k.kind][0],
    value: k.pairs,
    text: `${count(k.pairs)} (${portion(k.pairs, all)})`,
  }));
  const said = found.map((k) => `${portion(k.pairs, all)} ${k.kind}`).join(", ");
  return figure("What is the rejected reply?", `Of ${many(all, "pair")}: ${said}.`, bars(rows), {
    how: found.map((k) => `${KINDS[k.kind][0]}: ${KINDS[k.kind][1]}`).join(" "),
    numbers: [
      ["Kind", "Pairs", "Share", "Examples", "Longer reply chosen"],
      found.map((k) => [
        KINDS[k.kind][0],
        count(k.pairs),
        portion(k.pairs, all),
        count(k.examples),
        percent(k.longer_chosen),
      ]),
    ],
  });
}

function kindFindings(report) {
  const judged = report.kinds.filter((k) => k.recovery);
  const counts = report.counts.verification_by_kind;
  if (!judged.length) return null;
  const range = (e, say) => (e ? say(e.value) + (e.low === null ? "" : ` (${say(e.low)} to ${say(e.high)})`) : ABSENT);
  const rows = judged.map((k) => [
    KINDS[k.kind][0],
    k.kind in counts ? count(counts[k.kind].pairs) : ABSENT,
    range(k.recovery, percent),
    count(k.recovery.number),
    range(k.drift, percent),
    range(k.quality_gap, finely),
  ]);
  const said = judged.map((k) => `${percent(k.recovery.value)} in ${k.kind} pairs`).join(", ");
  return figure(
    "Do all kinds show what was asked?",
    `The judge finds ${said}.`,
    table(["Kind", "Pairs judged", "Recovered", "Of", "Drift", "Quality gap"], rows, "The judge by kind"),
    {
      wide: true,
      how:
        `Before filtering, as in \u201cDirections checked\u201d, with 95${THIN}% intervals. The quality gap is that of chosen ` +
        "less rejected replies. Near pairs were asked about the dimensions in which the " +
        "two persons differ. In restraint pairs a dimension is recovered if the rejected reply shows it.",
    },
  );
}

function kindChecks(report) {
  return report.kinds
    .filter(({ kind }) => isSpecial(kind))
    .flatMap(({ kind, pairs, longer_chosen: longer, recovery }) => [
      recovery && {
        name: `Asked dimensions that the judge finds in ${kind} pairs`,
        value: percent(recovery.value),
        verdict: recoveryVerdict(recovery),
        why: `of ${count(recovery.number)}, before filtering; ${`50${THIN}%`} is guessing.`,
        section: "kinds",
      },
      {
        name: `Longer reply preferred in ${kind} pairs`,
        value: percent(longer),
        verdict: verdictOf(fromHalf(wilson(longer, pairs)), 0.05, 0.15),
        why: `of ${many(pairs, "pair")}; far from 50${THIN}%, length alone tells which reply is right.`,
        section: "kinds",
      },
    ])
    .filter(Boolean);
}

// Checks to read first: a value, a verdict by a threshold, and the reason.

const FINE = "fine";
const LOOK = "look";
const PROBLEM = "problem";
const TOO_FEW = "too few to tell";

/** Return the verdict on an exact value: fine up to `fine`, worth a look up to `look`, else a problem. */
function verdict(value, fine, look) {
  return verdictOf([value, value], fine, look);
}

/**
 * Return the verdict on an estimate in the interval `[low, high]`: an alarm only where all of the interval is
 * beyond the bound, and fine only where none of it is a problem.
 */
function verdictOf([low, high], fine, look) {
  if (low > look) return PROBLEM;
  if (low > fine) return LOOK;
  return high <= look ? FINE : TOO_FEW;
}

/** Standard deviations around the mean that hold 99 % of a normal distribution. */
const SIGMAS = 2.576;

/** Return the 99 % confidence interval of a share of `number` (E. B. Wilson, 1927). */
function wilson(share, number) {
  if (!number) return [0, 1];
  const square = SIGMAS ** 2 / number;
  const middle = (share + square / 2) / (1 + square);
  const half = (SIGMAS / (1 + square)) * Math.sqrt((share * (1 - share)) / number + square / (4 * number));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** Return the distance from one half of a share in `[low, high]`, as `[least, most]`. */
function fromHalf([low, high]) {
  return [Math.max(0, low - 0.5, 0.5 - high), Math.max(Math.abs(low - 0.5), Math.abs(high - 0.5))];
}

/** Return the 99 % confidence interval of a zero correlation over `number` rows (R. A. Fisher, 1921). */
function fisher(number) {
  return number > 3 ? Math.tanh(SIGMAS / Math.sqrt(number - 3)) : 1;
}

/** Return the chance deviation of an AUC of `number` examples: 3.3 standard errors, about one pole in a thousand. */
function chance(number) {
  return (3.3 * 0.5) / Math.sqrt(number);
}

/** Deviation of an AUC beyond chance from which a reply's length reveals the pole. */
const GIVEN_AWAY = 0.05;

/**
 * Return the dimensions with a length AUC, farthest beyond chance first: `{name, poles, beyond}`. Each pole is
 * `{label, level, auc, number, beyond}`; the farther one comes first.
 */
function lengthBias(report) {
  const pole = (label, level, auc, number) => ({
    label,
    level,
    auc,
    number,
    beyond: Math.abs(auc - 0.5) - chance(number),
  });
  return report.dimensions
    .map((d) => ({
      name: d.name,
      poles: [
        pole(d.positive_label, 1, d.positive_length_auc, d.positive),
        pole(d.negative_label, -1, d.negative_length_auc, d.negative),
      ]
        .filter(({ auc, number }) => auc !== null && number > 0)
        .sort((a, b) => b.beyond - a.beyond),
    }))
    .filter(({ poles }) => poles.length)
    .map((d) => ({ ...d, beyond: d.poles[0].beyond }))
    .sort((a, b) => b.beyond - a.beyond);
}

/** Return every check with figures in this report, the worst first: `{name, value, verdict, why, section}`. */
function checks(report) {
  if (!report.examples) return [];
  const parts = [
    ...[verificationChecks, secondJudgeChecks, kindChecks, userChecks],
    ...[leakChecks, lengthChecks, historyChecks, spaceChecks, replyChecks],
  ];
  const order = [PROBLEM, LOOK, TOO_FEW, FINE];
  return parts.flatMap((part) => part(report)).sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict));
}

/** AlignX reports 84.2 % agreement of its directions with people. */
const ALIGNX_AGREEMENT = 0.842;

function verificationChecks(report) {
  const v = report.verification;
  if (!v) return [];
  const { recovery, drift, quality_gap: gap, made_neutral: dropped } = v;
  const asked = recoveryVerdict(recovery);
  return [
    {
      name: "Asked dimensions that the judge finds",
      value: percent(recovery.value),
      // Filtering has made the others neutral, so that no row claims them.
      verdict: dropped && asked === PROBLEM ? LOOK : asked,
      why:
        `of ${count(recovery.number)}, before filtering; fine from ${percent(ALIGNX_AGREEMENT)}, the agreement of ` +
        `AlignX with people, and ${`50${THIN}%`} is guessing.`,
      section: "verification",
    },
    shownCheck(report, v),
    v.order_agreement !== null && {
      name: "Same answer in all option orders",
      value: percent(v.order_agreement),
      verdict: verdict(1 - v.order_agreement, 0.2, 0.6),
      why: "a judge who answers by position knows little; averaging the orders removes the bias, not the doubt.",
      section: "verification",
    },
    drift && {
      name: "Drift where nobody asked",
      value: percent(drift.value),
      verdict: verdictOf([drift.low, drift.high], 0.1, 0.3),
      why: `of ${count(drift.number)} dimensions outside the direction have a margin beyond ${decimal(v.drift_margin)}.`,
      section: "verification",
    },
    gap && {
      name: "Chosen reply is the better one",
      value: finely(gap.value),
      verdict: gap.low === null ? TOO_FEW : verdictOf(fromZero(gap), 0.03, 0.1),
      why: "mean difference in quality, from \u22121 to 1; 0 means that quality does not tell the replies apart.",
      section: "verification",
    },
  ].filter(Boolean);
}

/** Fewest pairs from which a pole is said not to be shown: the interval of fewer holds zero by chance. */
const FEWEST_ASKED = 10;

/** Return whether the mean margin of a pole is, by its interval, not above zero: replies may as well ignore it. */
function isUnshown({ margin: { low, number } }) {
  return number >= FEWEST_ASKED && low !== null && low <= 0;
}

function shownCheck(report, v) {
  const poles = recoveredDimensions(report, v).flatMap((d) => d.poles);
  const known = poles.filter(({ margin }) => margin.number >= FEWEST_ASKED);
  const unshown = known.filter(isUnshown).sort((a, b) => a.margin.high - b.margin.high);
  const shown = `mean margin above 0 by its interval, of the poles asked for ${FEWEST_ASKED} times or more`;
  return (
    known.length > 0 && {
      name: "Poles that replies do not show",
      value: `${count(unshown.length)} of ${count(known.length)}`,
      verdict: !unshown.length ? FINE : unshown[0].margin.high > 0 || v.made_neutral ? LOOK : PROBLEM,
      why: unshown.length
        ? `not so ${short(unshown.map(({ label }) => label).join(", "), 120)}; ${shown}.`
        : `all have a ${shown}.`,
      section: "verification",
    }
  );
}

function recoveryVerdict({ low, high }) {
  return verdictOf([1 - high, 1 - low], 1 - ALIGNX_AGREEMENT, 0.35);
}

function secondJudgeChecks(report) {
  const { found, swap } = report.second_judge ?? {};
  const kept = found?.recovery_after;
  return [
    kept && {
      name: "Kept dimensions that a second judge finds",
      value: percent(kept.value),
      verdict: recoveryVerdict(kept),
      why: `of ${count(kept.number)} in a sample, by a judge that had no part in the build.`,
      section: "verification",
    },
    swap && {
      name: "Preferences that follow the portrait",
      value: percent(swap.preferred.value),
      verdict: verdictOf([1 - swap.preferred.high, 1 - swap.preferred.low], 0.2, 0.4),
      why: `of ${count(swap.preferred.number)} portraits; the judge prefers the reply of the person who is portrayed.`,
      section: "verification",
    },
  ].filter(Boolean);
}

/** Return the distance from zero of a number in `[low, high]`, as `[least, most]`. */
function fromZero({ low, high }) {
  return [Math.max(0, low, -high), Math.max(Math.abs(low), Math.abs(high))];
}

function lengthChecks(report) {
  const longer = report.lengths.longer_chosen_unmirrored;
  const all = {
    name: "Longer reply preferred",
    value: percent(longer),
    verdict: verdictOf(fromHalf(wilson(longer, report.pairs)), 0.05, 0.15),
    why:
      `of ${many(report.pairs, "row")} that are not mirrored; 50${THIN}% means no length bias, ` +
      `fine within 5${THIN}% and chance.`,
    section: "lengths",
  };
  const known = lengthBias(report);
  if (!known.length) return [all];
  const far = known.filter(({ beyond }) => beyond > GIVEN_AWAY);
  const [{ label, auc }] = known[0].poles;
  const each = {
    name: "Dimensions that length reveals",
    value: far.length ? `${count(far.length)} of ${count(known.length)}` : "0",
    verdict: verdict(far.length / known.length, 0, 0.1),
    why:
      `with a length AUC more than ${GIVEN_AWAY} beyond chance` +
      (far.length ? `; farthest is \u201c${short(label, 60)}\u201d with ${decimal(auc)}.` : "."),
    section: "lengths",
  };
  return [all, each];
}

function leakChecks(report) {
  const { exact_across: exact, posts_across: posts, near_across: near, near_sampled: sampled } = report.duplicates;
  const files = report.contamination.map((file) => ({
    name: `Overlap with ${short(file.file, 40)}`,
    value: count(file.posts + file.replies),
    verdict: file.posts + file.replies ? LOOK : FINE,
    why:
      `${many(file.posts, "post")} and the replies of ${many(file.replies, "row")} share ` +
      `${count(file.words)} words in a row.`,
    section: "contamination",
  }));
  return [
    {
      name: "Posts in two splits",
      value: count(posts),
      verdict: posts ? PROBLEM : FINE,
      why: "by text; a post must be in one split only.",
      section: "duplicates",
    },
    {
      name: "Replies in two splits",
      value: count(exact),
      verdict: exact ? PROBLEM : FINE,
      why: "exactly equal; a build rejects such pairs.",
      section: "duplicates",
    },
    sampled && {
      name: "Near-duplicates across splits",
      value: count(near),
      verdict: near === 0 ? FINE : wilson(near / sampled, sampled)[0] > 0.01 ? PROBLEM : LOOK,
      why: `of ${count(sampled)} replies; up to 1${THIN}% beyond chance deserves a look.`,
      section: "duplicates",
    },
    ...files,
  ].filter(Boolean);
}

function historyChecks(report) {
  const { contradicting, repeated, items } = report.history;
  if (!total(items.slice(1))) return [];
  return [
    {
      name: "Histories that contradict",
      value: count(contradicting),
      verdict: contradicting ? LOOK : FINE,
      why: "an item opposes the example's direction; expected with history.consistency: paper.",
      section: "history",
    },
    {
      name: "Histories that repeat a text",
      value: count(repeated),
      verdict: repeated ? PROBLEM : FINE,
      why: "a post or a reply occurs twice in one example.",
      section: "history",
    },
  ];
}

function spaceChecks(report) {
  const active = report.dimensions.filter((d) => d.positive + d.negative);
  // With fewer rows, more than one dimension in a thousand has a single pole by chance.
  const lopsided = active.filter((d) => Math.max(d.positive, d.negative) > 10 && !Math.min(d.positive, d.negative));
  const below = report.correlation.below_half;
  return [
    {
      name: "Dimensions with one pole only",
      value: count(lopsided.length),
      verdict: lopsided.length ? LOOK : FINE,
      why: lopsided.length
        ? `of ${count(active.length)} that occur: ${short(lopsided.map((d) => d.name).join(", "), 80)}.`
        : `all of the ${count(active.length)} that occur have both poles, within chance.`,
      section: "coverage",
    },
    below !== null && {
      name: "Pairs of dimensions below 0.5",
      value: percent(below),
      verdict: fisher(report.pairs) < 0.5 ? verdict(1 - below, 0.01, 0.05) : TOO_FEW,
      why: `by absolute correlation; AlignX has ${percent(0.9965)}.`,
      section: "correlations",
    },
  ].filter(Boolean);
}

function replyChecks(report) {
  const { pairs_asked: asked, pairs_lost: lost } = report.counts;
  const { label: labels, portrait } = report.copies;
  return [
    asked > 0 && {
      name: "Pairs lost",
      value: portion(lost, asked),
      verdict: verdict(lost / asked, 0.05, 0.2),
      why: `${count(lost)} of the ${count(asked)} configured; up to 5${THIN}% is fine.`,
      section: "funnel",
    },
    {
      name: "Replies that copy the persona",
      value: percent(Math.max(labels, portrait)),
      verdict: verdictOf(wilson(Math.max(labels, portrait), report.pairs), 0.02, 0.1),
      why: `a label in ${percent(labels)} of pairs, six words of a portrait in ${percent(portrait)}.`,
      section: "copies",
    },
  ].filter(Boolean);
}

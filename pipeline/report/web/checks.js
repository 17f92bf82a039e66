// What a reader should look at first: a number, a verdict where there is a threshold, and why.

const FINE = "fine";
const LOOK = "look";
const PROBLEM = "problem";
const TOO_FEW = "too few to tell";

/** A verdict on a count of all there is, by two bounds: at most `fine` is fine, at most `look` deserves a look. */
function verdict(value, fine, look) {
  return verdictOf([value, value], fine, look);
}

/**
 * A verdict on what was estimated, of the interval `[low, high]` in which it lies: an alarm only where all of it is
 * beyond the bound, and fine only where none of it is a problem.
 */
function verdictOf([low, high], fine, look) {
  if (low > look) return PROBLEM;
  if (low > fine) return LOOK;
  return high <= look ? FINE : TOO_FEW;
}

/** 99 % of a normal distribution are within so many standard deviations. */
const SIGMAS = 2.576;

/** The interval of a share of `number`, with 99 % confidence: E. B. Wilson, 1927. */
function wilson(share, number) {
  if (!number) return [0, 1];
  const square = SIGMAS ** 2 / number;
  const middle = (share + square / 2) / (1 + square);
  const half = (SIGMAS / (1 + square)) * Math.sqrt((share * (1 - share)) / number + square / (4 * number));
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

/** How far from one half a share in `[low, high]` lies: `[least, most]`. */
function fromHalf([low, high]) {
  return [Math.max(0, low - 0.5, 0.5 - high), Math.max(Math.abs(low - 0.5), Math.abs(high - 0.5))];
}

/** The interval of a correlation of nought over `number` rows, with 99 % confidence: R. A. Fisher, 1921. */
function fisher(number) {
  return number > 3 ? Math.tanh(SIGMAS / Math.sqrt(number - 3)) : 1;
}

/** How far chance alone moves the AUC of `number` examples, at 3.3 standard errors: about one in a thousand poles. */
function chance(number) {
  return (3.3 * 0.5) / Math.sqrt(number);
}

/** Beyond chance by more than this, the length of a reply says something about the person. */
const GIVEN_AWAY = 0.05;

/**
 * The dimensions whose length AUC is known, farthest beyond chance first: `{name, poles, beyond}`; each pole is
 * `{label, level, auc, number, beyond}`, and the farther one comes first.
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

/** Every check that this report has the figures for, the worst first: `{name, value, verdict, why, section}`. */
function checks(report) {
  if (!report.examples) return [];
  const kinds = [leakChecks, lengthChecks, historyChecks, spaceChecks, replyChecks];
  const order = [PROBLEM, LOOK, TOO_FEW, FINE];
  return kinds.flatMap((kind) => kind(report)).sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict));
}

function lengthChecks(report) {
  const longer = report.lengths.longer_chosen_unmirrored;
  const all = {
    name: "Longer reply preferred",
    value: percent(longer),
    verdict: verdictOf(fromHalf(wilson(longer, report.pairs)), 0.05, 0.15),
    why:
      `of ${many(report.pairs, "row")} that are no mirror images; half means that length tells nothing, ` +
      `fine within 5${THIN}% and chance.`,
    section: "lengths",
  };
  const known = lengthBias(report);
  if (!known.length) return [all];
  const far = known.filter(({ beyond }) => beyond > GIVEN_AWAY);
  const [{ label, auc }] = known[0].poles;
  const each = {
    name: "Dimensions that length gives away",
    value: far.length ? `${count(far.length)} of ${count(known.length)}` : "0",
    verdict: verdict(far.length / known.length, 0, 0.1),
    why:
      `by a length AUC more than ${GIVEN_AWAY} beyond chance` +
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
      why: "by their text; a post must stay in one split.",
      section: "duplicates",
    },
    {
      name: "Replies in two splits",
      value: count(exact),
      verdict: exact ? PROBLEM : FINE,
      why: "equal to the letter; a build leaves such pairs out.",
      section: "duplicates",
    },
    sampled && {
      name: "Near-duplicates across splits",
      value: count(near),
      verdict: near === 0 ? FINE : wilson(near / sampled, sampled)[0] > 0.01 ? PROBLEM : LOOK,
      why: `of ${count(sampled)} replies; up to 1${THIN}%, beyond chance, deserves a look.`,
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
      why: "an item opposes the example's direction; to be expected where consistency is that of the paper.",
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
  // Fewer rows all have one pole by chance in more than one of a thousand dimensions.
  const lopsided = active.filter((d) => Math.max(d.positive, d.negative) > 10 && !Math.min(d.positive, d.negative));
  const below = report.correlation.below_half;
  return [
    {
      name: "Dimensions with one pole only",
      value: count(lopsided.length),
      verdict: lopsided.length ? LOOK : FINE,
      why: lopsided.length
        ? `of ${count(active.length)} that occur: ${short(lopsided.map((d) => d.name).join(", "), 80)}.`
        : `none of the ${count(active.length)} that occur lacks one beyond chance.`,
      section: "coverage",
    },
    below !== null && {
      name: "Pairs of dimensions below 0.5",
      value: percent(below),
      verdict: fisher(report.pairs) < 0.5 ? verdict(1 - below, 0.01, 0.05) : TOO_FEW,
      why: `by the size of their correlation; AlignX has ${percent(0.9965)}.`,
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
      why: `${count(lost)} of the ${count(asked)} asked for; up to 5${THIN}% is fine.`,
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

// Colours, numbers and what is said of requests.

const COLOURS = ["#f2a93b", "#2f6fb3", "#8fcbae", "#d1495b", "#9b72c7"]; // by kind of phase
const MEANINGS = [
  "from its arrival until it is first in an iteration",
  "its prompt is computed",
  "its output is produced, a token in an iteration",
  "preempted, or begun anew after a failure",
  "on its way to another replica, or not scheduled there yet",
];
const STACK = [DECODE, PREFILL, WAITING, AGAIN, MOVING]; // from below
const INK = "#1c2733", FAINT = "#66727f", GRID = "#e6eaee";
const KV_COLOURS = ["#c9d3de", "#7f93a8"], QUEUE_COLOURS = ["#fbe3bb", "#e0922a"]; // below the least, up to the most

const whole = (x) => Math.round(x).toLocaleString("en-US");

// Three or more significant digits, as seconds or milliseconds.
function duration(s) {
  if (!Number.isFinite(s)) return "none";
  if (s < 1e-3) return `${whole(s * 1e6)} µs`;
  if (s < 1) return `${(s * 1000).toFixed(s < 0.1 ? 1 : 0)} ms`;
  return `${s.toFixed(s < 100 ? 2 : 1)} s`;
}

// An instant, with the digits that matter where `span` seconds are visible.
function instant(s, span) {
  if (!Number.isFinite(s)) return "never";
  const digits = Math.min(6, Math.max(1, 3 - Math.floor(Math.log10(span))));
  return `${s.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })} s`;
}

const replicaName = (episode, replica) => {
  if (replica === NOWHERE) return "none";
  const role = episode.about.replicas[replica].role;
  return role === "mixed" ? `replica ${replica}` : `replica ${replica} (${role})`;
};

// The whole life of a request as pairs of what and how much.
function facts(episode, i) {
  const path = [];
  for (let p = episode.firstPhase[i]; p < episode.firstPhase[i + 1]; p++) {
    if (path[path.length - 1] !== episode.phaseReplica[p]) path.push(episode.phaseReplica[p]);
  }
  const at = (s) => instant(s, 1);
  const rows = [
    ["arrival", at(episode.arrival[i])],
    ["replica", path.map((replica) => replicaName(episode, replica)).join(" → ") || "none"],
    ["scheduled", at(episode.scheduled[i])],
    ["first token", at(episode.firstToken[i])],
    [episode.finished(i) ? "finish" : "end", at(episode.end[i])],
    ["prompt", `${whole(episode.promptTokens[i])} tokens`],
    ["output", `${whole(episode.outputTokens[i])} tokens`],
    ["TTFT", duration(episode.ttft(i))],
    ["TPOT", duration(episode.tpot(i))],
    ["latency", duration(episode.latency(i))],
    ["outcome", episode.about.outcomes[episode.outcome[i]]],
    ["objective", ["met", "missed", "none"][episode.objective[i]]],
    ["preemptions", whole(episode.preemptions[i])],
  ];
  if (episode.hitTokens[i]) rows.push(["prefix hits", `${whole(episode.hitTokens[i])} tokens`]);
  if (episode.retries[i]) rows.push(["retries", whole(episode.retries[i])]);
  if (episode.migrations[i]) rows.push(["migrations", whole(episode.migrations[i])]);
  return rows;
}

// How long it was in each phase, one after the other.
function course(episode, i) {
  const phases = [];
  for (let p = episode.firstPhase[i]; p < episode.firstPhase[i + 1]; p++) {
    const kind = episode.phaseKind[p];
    const took = duration(episode.phaseEnd[p] - episode.phaseStart[p]);
    phases.push({ kind, text: `${episode.about.phases[kind]} ${took}, ${replicaName(episode, episode.phaseReplica[p])}` });
  }
  return phases;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function definitions(rows) {
  const list = element("dl");
  for (const [what, value] of rows) list.append(element("dt", what), element("dd", value));
  return list;
}

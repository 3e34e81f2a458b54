// Beside the lanes: which requests are shown, who is pinned, and who took longest in the visible stretch.

const SLOWEST = 12;

class Panel {
  // changed(): the filters have; chosen(request): one of the table or of the search; height(pixels): of lanes.
  constructor(episode, changed, chosen, height) {
    this.episode = episode;
    this.form = document.getElementById("filters");
    this.by = "latency";
    this.addChoices();
    let timer = 0;
    this.form.addEventListener("input", (event) => {
      if (event.target.id === "find" || event.target.id === "lane-height") return;
      clearTimeout(timer);
      timer = setTimeout(changed, event.target.type === "number" ? 200 : 0);
    });
    this.form.addEventListener("submit", (event) => event.preventDefault());
    document.getElementById("reset-filters").addEventListener("click", () => {
      this.form.reset();
      changed();
      height(Number(this.field("lane-height").value));
    });
    this.field("lane-height").addEventListener("input", (event) => height(Number(event.target.value)));
    this.field("find").addEventListener("change", (event) => {
      const request = event.target.value === "" ? -1 : Number(event.target.value);
      if (Number.isInteger(request) && request >= 0 && request < episode.count) chosen(request);
    });
    for (const button of document.querySelectorAll("#slowest button")) {
      button.addEventListener("click", () => {
        this.by = button.value;
        this.showSlowest();
      });
    }
    this.rows = document.querySelector("#slowest tbody");
    this.rows.addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) chosen(Number(row.dataset.request));
    });
  }

  field(name) {
    return this.form.elements[name];
  }

  // Only what occurs can be chosen.
  addChoices() {
    const { episode } = this;
    const add = (name, value, text) => this.field(name).append(new Option(text, value));
    for (let r = 0; r < episode.numReplicas; r++) add("replica", r, replicaName(episode, r));
    const outcomes = new Set(episode.outcome);
    episode.about.outcomes.forEach((outcome, i) => outcomes.has(i) && add("outcome", i, outcome));
    const objectives = new Set(episode.objective);
    ["met", "missed"].forEach((what, i) => objectives.has(i) && add("objective", i, what));
    for (const [what, test] of Object.entries(HAPPENED)) {
      for (let i = 0; i < episode.count; i++) {
        if (test(episode, i)) {
          add("happened", what, what);
          break;
        }
      }
    }
    this.field("find").max = episode.count - 1;
  }

  // The replica whose lane is shown alone; -1 for all.
  get replica() {
    return this.field("replica").value === "" ? -1 : Number(this.field("replica").value);
  }

  set replica(replica) {
    this.field("replica").value = replica < 0 ? "" : replica;
  }

  // Of every request 1 or 0, by the filters.
  shown() {
    const { episode, replica } = this;
    const number = (name) => (this.field(name).value === "" ? null : Number(this.field(name).value));
    const outcome = number("outcome"), objective = number("objective"), happened = HAPPENED[this.field("happened").value];
    const ttft = number("least-ttft"), latency = number("least-latency");
    const fewest = number("fewest-prompt") ?? 0, most = number("most-prompt") ?? Infinity;
    const shown = new Uint8Array(episode.count);
    for (let i = 0; i < episode.count; i++) {
      shown[i] =
        episode.promptTokens[i] >= fewest &&
        episode.promptTokens[i] <= most &&
        (outcome === null || episode.outcome[i] === outcome) &&
        (objective === null || episode.objective[i] === objective) &&
        (ttft === null || episode.ttft(i) >= ttft) &&
        (latency === null || episode.latency(i) >= latency) &&
        (replica < 0 || episode.visits(i, replica)) &&
        (!happened || happened(episode, i));
    }
    return shown;
  }

  // Of the requests shown, the slowest that are there between `from` and `to`; arguments are remembered.
  showSlowest(shown = this.last.shown, from = this.last.from, to = this.last.to, pinned = this.last.pinned) {
    this.last = { shown, from, to, pinned };
    const { episode } = this;
    const slowness = (i) => (this.by === "ttft" ? episode.ttft(i) : episode.latency(i));
    const slowest = [];
    let least = -Infinity;
    for (let i = 0; i < episode.count; i++) {
      if (!shown[i] || episode.arrival[i] > to || !(episode.end[i] >= from) || !(slowness(i) > least)) continue;
      slowest.push(i);
      if (slowest.length >= 4 * SLOWEST) {
        slowest.sort((a, b) => slowness(b) - slowness(a)).length = SLOWEST;
        least = slowness(slowest[SLOWEST - 1]);
      }
    }
    slowest.sort((a, b) => slowness(b) - slowness(a));
    this.rows.replaceChildren(...slowest.slice(0, SLOWEST).map((i) => this.row(i, pinned)));
    for (const button of document.querySelectorAll("#slowest button")) {
      button.setAttribute("aria-pressed", String(button.value === this.by));
    }
  }

  row(i, pinned) {
    const { episode } = this;
    const row = element("tr", "", i === pinned ? "pinned" : "");
    row.dataset.request = i;
    const cells = [
      `#${i}`,
      `${whole(episode.promptTokens[i])}+${whole(episode.outputTokens[i])}`,
      duration(episode.ttft(i)),
      duration(episode.latency(i)),
    ];
    row.append(...cells.map((text) => element("td", text)));
    return row;
  }

  showPinned(pinned) {
    const place = document.getElementById("pinned");
    if (pinned === null) {
      place.replaceChildren(element("p", "Click a request to keep it here; Esc lets it go.", "hint"));
      return;
    }
    const phases = element("ol");
    for (const { kind, text } of course(this.episode, pinned)) {
      const item = element("li", text);
      item.style.setProperty("--colour", COLOURS[kind]);
      phases.append(item);
    }
    place.replaceChildren(element("h3", `Request ${pinned}`), definitions(facts(this.episode, pinned)), phases);
  }
}

const HAPPENED = {
  preempted: (episode, i) => episode.preemptions[i] > 0,
  "tried again": (episode, i) => episode.retries[i] > 0,
  "moved to another replica": (episode, i) => episode.moves(i),
};

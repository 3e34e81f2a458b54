// A lane per replica: how many requests wait, prefill and decode there, and each of them in a row of its own.

class Lane {
  // replica: its number; phases: those of the requests shown on it, by request and time; queue: Steps of all.
  constructor(episode, replica, phases, queue) {
    this.episode = episode;
    this.replica = replica;
    this.queue = queue;
    this.kinds = occupancies(episode, phases);
    this.addStays(phases);
  }

  // A stay is a run of phases of one request. Stays go by start: start, end, first phase and number of them.
  addStays(phases) {
    const { phaseStart, phaseEnd } = this.episode;
    const first = [];
    for (let i = 0; i < phases.length; i++) {
      const p = phases[i];
      const goesOn = i > 0 && phases[i - 1] === p - 1 && phaseEnd[p - 1] === phaseStart[p] && !this.opens(p);
      if (!goesOn) first.push(i);
    }
    const order = Uint32Array.from(first.keys());
    order.sort((a, b) => phaseStart[phases[first[a]]] - phaseStart[phases[first[b]]]);
    this.firstPhase = Uint32Array.from(order, (s) => phases[first[s]]);
    this.numPhases = Uint32Array.from(order, (s) => (first[s + 1] ?? phases.length) - first[s]);
    this.start = Float64Array.from(this.firstPhase, (p) => phaseStart[p]);
    this.end = Float64Array.from(this.firstPhase, (p, s) => phaseEnd[p + this.numPhases[s] - 1]);
    this.latestEnd = Float64Array.from(this.end); // of this stay and all before
    for (let s = 1; s < order.length; s++) {
      this.latestEnd[s] = Math.max(this.latestEnd[s], this.latestEnd[s - 1]);
    }
    this.present = new Occupancy(Float64Array.from(this.start), Float64Array.from(this.end));
    this.row = null;
  }

  // Whether phase p is the first of its request.
  opens(p) {
    return this.episode.firstPhase[this.episode.requestOf(p)] === p;
  }

  // Calls visit(stay) for those that overlap [from, to].
  each(from, to, visit) {
    const last = after(this.start, to);
    for (let s = after(this.latestEnd, from); s < last; s++) {
      if (this.end[s] > from) visit(s);
    }
  }

  // The lowest row that is free from its start on, for every stay.
  rows() {
    if (this.row) return this.row;
    this.row = new Uint32Array(this.start.length);
    const byEnd = Uint32Array.from(this.start.keys()).sort((a, b) => this.end[a] - this.end[b]);
    const free = new Heap();
    let rows = 0, ended = 0;
    for (let s = 0; s < this.row.length; s++) {
      while (this.end[byEnd[ended]] <= this.start[s]) free.push(this.row[byEnd[ended++]]);
      this.row[s] = free.length ? free.pop() : rows++;
    }
    return this.row;
  }
}

// Of whole numbers, the least first.
class Heap {
  constructor() {
    this.items = [];
  }

  get length() {
    return this.items.length;
  }

  push(item) {
    const { items } = this;
    let at = items.length;
    items.push(item);
    while (at > 0 && items[(at - 1) >> 1] > item) {
      items[at] = items[(at - 1) >> 1];
      at = (at - 1) >> 1;
    }
    items[at] = item;
  }

  pop() {
    const { items } = this;
    const least = items[0], item = items.pop();
    let at = 0;
    while (2 * at + 1 < items.length) {
      let child = 2 * at + 1;
      if (child + 1 < items.length && items[child + 1] < items[child]) child++;
      if (items[child] >= item) break;
      items[at] = items[child];
      at = child;
    }
    if (items.length) items[at] = item;
    return least;
  }
}

// An Occupancy for each kind of phase.
function occupancies(episode, phases) {
  const starts = Array.from({ length: KINDS }, () => []), ends = Array.from({ length: KINDS }, () => []);
  for (const p of phases) {
    starts[episode.phaseKind[p]].push(episode.phaseStart[p]);
    ends[episode.phaseKind[p]].push(episode.phaseEnd[p]);
  }
  return starts.map((_, kind) => new Occupancy(Float64Array.from(starts[kind]), Float64Array.from(ends[kind])));
}

// Of each replica, the numbers of the phases there of the requests that `shown` (1 or 0 of each) lets through.
function phasesByReplica(episode, shown) {
  const phases = Array.from({ length: episode.numReplicas }, () => []);
  for (let i = 0; i < episode.count; i++) {
    if (!shown[i]) continue;
    for (let p = episode.firstPhase[i]; p < episode.firstPhase[i + 1]; p++) {
      if (episode.phaseReplica[p] !== NOWHERE) phases[episode.phaseReplica[p]].push(p);
    }
  }
  return phases;
}

// The Occupancy of all replicas by the requests shown, from arrival to end.
function lives(episode, shown) {
  const those = [...shown.keys()].filter((i) => shown[i] && episode.end[i] >= episode.arrival[i]);
  return new Occupancy(Float64Array.from(those, (i) => episode.arrival[i]), Float64Array.from(those, (i) => episode.end[i]));
}

// How many wait on each replica over time, of all requests.
function queues(episode) {
  const everyone = new Uint8Array(episode.count).fill(1);
  return phasesByReplica(episode, everyone).map((phases) => {
    const waiting = phases.filter((p) => episode.phaseKind[p] === WAITING || episode.phaseKind[p] === AGAIN);
    const starts = Float64Array.from(waiting, (p) => episode.phaseStart[p]);
    return new Occupancy(starts, Float64Array.from(waiting, (p) => episode.phaseEnd[p])).steps();
  });
}

// The episode: arrays of the requests and of their phases, as the page holds them, in seconds.

const NEVER = 2 ** 32 - 1;
const NOWHERE = 2 ** 16 - 1;
const WAITING = 0, PREFILL = 1, DECODE = 2, AGAIN = 3, MOVING = 4; // kinds of phases
const KINDS = 5;
const TYPES = { uint32: Uint32Array, uint16: Uint16Array, uint8: Uint8Array };

class Episode {
  constructor(about, arrays) {
    this.about = about;
    this.numReplicas = about.replicas.length;
    const seconds = (ticks) => Float64Array.from(ticks, (tick) => (tick === NEVER ? NaN : tick * about.tick_s));
    this.arrival = seconds(arrays.arrival);
    this.scheduled = seconds(arrays.scheduled);
    this.firstToken = seconds(arrays.first_token);
    this.end = seconds(arrays.end);
    this.promptTokens = arrays.prompt_tokens;
    this.outputTokens = arrays.output_tokens;
    this.hitTokens = arrays.hit_tokens;
    this.replica = arrays.replica;
    this.preemptions = arrays.preemptions;
    this.retries = arrays.retries;
    this.migrations = arrays.migrations;
    this.outcome = arrays.outcome;
    this.objective = arrays.objective;
    this.count = this.arrival.length;
    this.end_s = Math.max(about.end_s, 1e-3);

    // Phases of request i: from firstPhase[i] up to firstPhase[i + 1], each until the next one begins.
    this.firstPhase = new Uint32Array(this.count + 1);
    for (let i = 0; i < this.count; i++) this.firstPhase[i + 1] = this.firstPhase[i] + arrays.num_phases[i];
    this.phaseKind = arrays.phase_kind;
    this.phaseReplica = arrays.phase_replica;
    this.phaseStart = seconds(arrays.phase_start);
    this.phaseEnd = new Float64Array(this.phaseStart.length);
    for (let i = 0; i < this.count; i++) {
      const last = this.firstPhase[i + 1] - 1;
      for (let p = this.firstPhase[i]; p <= last; p++) {
        this.phaseEnd[p] = p < last ? this.phaseStart[p + 1] : this.end[i];
      }
    }

    this.kv = []; // of each replica: blocks in use over time
    let from = 0;
    for (const replica of about.replicas) {
      const to = from + replica.kv_steps;
      this.kv.push(new Steps(seconds(arrays.kv_time.subarray(from, to)), arrays.kv_blocks.subarray(from, to)));
      from = to;
    }
  }

  ttft(i) {
    return this.firstToken[i] - this.arrival[i];
  }

  finished(i) {
    return this.about.outcomes[this.outcome[i]] === "finished";
  }

  latency(i) {
    return this.finished(i) ? this.end[i] - this.arrival[i] : NaN;
  }

  tpot(i) {
    const gaps = this.outputTokens[i] - 1;
    return this.finished(i) && gaps > 0 ? (this.end[i] - this.firstToken[i]) / gaps : NaN;
  }

  // The request that phase p is one of.
  requestOf(p) {
    return after(this.firstPhase, p) - 1;
  }

  // Whether it has ever been on, or on its way to, a replica.
  visits(i, replica) {
    for (let p = this.firstPhase[i]; p < this.firstPhase[i + 1]; p++) {
      if (this.phaseReplica[p] === replica) return true;
    }
    return false;
  }

  // Whether it has changed between replicas once it was served.
  moves(i) {
    for (let p = this.firstPhase[i] + 1; p < this.firstPhase[i + 1]; p++) {
      if (this.phaseReplica[p] !== this.phaseReplica[p - 1]) return true;
    }
    return false;
  }
}

async function readEpisode() {
  const about = JSON.parse(document.getElementById("about").textContent);
  const element = document.getElementById("arrays");
  const text = atob(element.textContent);
  element.remove(); // megabytes
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(unpacked).arrayBuffer();
  const arrays = {};
  let at = 0;
  for (const [name, type, length] of about.arrays) {
    const array = new TYPES[type](buffer, at, length);
    if (about.differences.includes(name)) {
      for (let i = 1; i < length; i++) array[i] += array[i - 1]; // modulo 2^32, as they were written
    }
    arrays[name] = array;
    at += array.byteLength;
  }
  return new Episode(about, arrays);
}

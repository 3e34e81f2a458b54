// The time axis that everything shares: which stretch of the episode is visible.

const LEAST_SPAN_S = 1e-4;

class TimeAxis {
  constructor(end_s, changed) {
    this.end_s = end_s * 1.01; // the last end is not at the edge
    this.from = 0;
    this.to = this.end_s;
    this.changed = changed;
  }

  get span() {
    return this.to - this.from;
  }

  show(from, to) {
    const span = Math.min(Math.max(to - from, LEAST_SPAN_S), this.end_s);
    const centred = (from + to - span) / 2;
    this.from = Math.min(Math.max(centred, 0), this.end_s - span);
    this.to = this.from + span;
    this.changed();
  }

  reset() {
    this.show(0, this.end_s);
  }

  pan(seconds) {
    const from = Math.min(Math.max(this.from + seconds, 0), this.end_s - this.span);
    this.show(from, from + this.span);
  }

  // `factor` below 1 zooms in; `at` stays where it is.
  zoom(factor, at = (this.from + this.to) / 2) {
    const span = Math.min(Math.max(this.span * factor, LEAST_SPAN_S), this.end_s);
    const from = Math.min(Math.max(at - ((at - this.from) / this.span) * span, 0), this.end_s - span);
    this.show(from, from + span);
  }

  // About `count` round times within the visible stretch.
  ticks(count) {
    const step = roundUp(this.span / count, [1, 2, 5, 10]);
    const ticks = [];
    for (let k = Math.ceil(this.from / step); k * step <= this.to; k++) ticks.push(k * step);
    return { ticks, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }
}

// The least of the given multiples of a power of ten that is at least x.
function roundUp(x, multiples) {
  const power = 10 ** Math.floor(Math.log10(x));
  return power * multiples.find((multiple) => multiple * power >= x * (1 - 1e-9));
}

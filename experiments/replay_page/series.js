// What changes over time, asked for any stretch of it: by binary search in sorted arrays, so that a question
// costs the same however long the episode is.

// The first position from `from` on whose value is above `x`; the values ascend.
function after(values, x, from = 0) {
  let low = from, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] > x) high = middle;
    else low = middle + 1;
  }
  return low;
}

// A number that changes in steps: values[i] from time[i] on, 0 before.
class Steps {
  constructor(time, values) {
    this.time = time;
    this.values = values;
  }

  at(t) {
    const i = after(this.time, t) - 1;
    return i < 0 ? 0 : this.values[i];
  }

  // Lowest and highest value within each of the columns between neighbouring edges, into `low` and `high`.
  extremes(edges, low, high) {
    const { time, values } = this;
    let i = after(time, edges[0]) - 1; // the step in force
    for (let column = 0; column < low.length; column++) {
      if (time[i + 1] === edges[column]) i++;
      let least = i < 0 ? 0 : values[i], most = least;
      while (i + 1 < time.length && time[i + 1] < edges[column + 1]) {
        i++;
        if (values[i] < least) least = values[i];
        if (values[i] > most) most = values[i];
      }
      low[column] = least;
      high[column] = most;
    }
  }
}

// How many of some intervals cover an instant, and how many on average a stretch of time, exactly.
class Occupancy {
  constructor(starts, ends) {
    this.starts = starts.sort();
    this.ends = ends.sort();
    this.startSums = sums(this.starts);
    this.endSums = sums(this.ends);
  }

  at(t) {
    return after(this.starts, t) - after(this.ends, t);
  }

  // How many overlap [from, to].
  overlapping(from, to) {
    return after(this.starts, to) - after(this.ends, from);
  }

  // The average over each column between neighbouring edges, into `means`: differences of the integral of
  // the number covered, which up to t is the sum of t - start over starts before t, less that over ends.
  averages(edges, means) {
    let started = 0, ended = 0, before = 0;
    for (let i = 0; i < edges.length; i++) {
      started = after(this.starts, edges[i], started);
      ended = after(this.ends, edges[i], ended);
      const integral = edges[i] * (started - ended) - this.startSums[started] + this.endSums[ended];
      if (i > 0) means[i - 1] = Math.max(0, (integral - before) / (edges[i] - edges[i - 1]));
      before = integral;
    }
  }

  steps() {
    const time = new Float64Array(this.starts.length + this.ends.length);
    const values = new Uint32Array(time.length);
    let started = 0, ended = 0, length = 0;
    while (ended < this.ends.length) {
      const starts = started < this.starts.length && this.starts[started] < this.ends[ended];
      const t = starts ? this.starts[started++] : this.ends[ended++];
      if (length === 0 || time[length - 1] < t) length++;
      time[length - 1] = t;
      values[length - 1] = started - ended;
    }
    return new Steps(time.subarray(0, length), values.subarray(0, length));
  }
}

function sums(values) {
  const sums = new Float64Array(values.length + 1);
  for (let i = 0; i < values.length; i++) sums[i + 1] = sums[i] + values[i];
  return sums;
}

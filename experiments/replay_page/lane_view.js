// Draws the lanes of the visible stretch: every request as a bar where there is room for all, and else how
// many are in each phase; below, the KV blocks in use and the queue.

const GUTTER = 104; // pixels to the left of the time axis, for names and scales
const COLUMN = 2; // pixels
const MOST_BARS = 3000, ROW = 16; // a frame draws no more bars, and none higher
const FONT = "11px system-ui, sans-serif";

class LaneView {
  constructor(canvas, overlay, axis, episode) {
    this.canvas = canvas;
    this.overlay = overlay;
    this.axis = axis;
    this.episode = episode;
    this.lanes = [];
    this.boxes = []; // the bars drawn
    this.top = 0; // pixels scrolled
    this.laneHeight = 100;
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    this.ink = fit(this.canvas, width, height);
    this.marks = fit(this.overlay, width, height);
    const columns = Math.max(1, Math.floor((width - GUTTER) / COLUMN));
    this.edges = new Float64Array(columns + 1);
    this.low = new Float64Array(columns);
    this.high = new Float64Array(columns);
  }

  x(t) {
    return GUTTER + ((t - this.axis.from) / this.axis.span) * (this.width - GUTTER);
  }

  time(x) {
    return this.axis.from + ((x - GUTTER) / (this.width - GUTTER)) * this.axis.span;
  }

  // Where the parts of a lane are: the requests, KV use and the queue, each [top, height].
  parts(position) {
    const top = position * this.laneHeight - this.top;
    const chart = Math.round(Math.min(Math.max(this.laneHeight * 0.15, 14), 70));
    const requests = this.laneHeight - 2 * chart - 14;
    return {
      top,
      requests: [top + 5, requests],
      kv: [top + requests + 8, chart],
      queue: [top + requests + chart + 11, chart],
    };
  }

  inView(position) {
    const { top } = this.parts(position);
    return top < this.height && top + this.laneHeight > 0;
  }

  draw() {
    const { ink, axis } = this;
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, this.width, this.height);
    for (let i = 0; i < this.edges.length; i++) {
      this.edges[i] = axis.from + (i / (this.edges.length - 1)) * axis.span;
    }
    this.drawGrid();
    const visible = [...this.lanes.keys()].filter((position) => this.inView(position));
    this.boxes = [];
    const rowHeights = this.rowHeights(visible);
    this.areBars = rowHeights !== null;
    const averages = this.areBars ? [] : visible.map((position) => this.averages(this.lanes[position]));
    this.mostRequests = scale(averages.map((each) => each.at(-1)));
    const queues = visible.map((position) => this.extremesOf(this.lanes[position].queue));
    this.mostQueued = scale(queues.map(([, high]) => high));
    const kv = visible.map((position) => this.kvPercent(this.lanes[position].replica));
    this.mostKv = Math.min(100, scale(kv.map(([, high]) => high)));
    visible.forEach((position, i) => {
      const lane = this.lanes[position], parts = this.parts(position);
      if (this.areBars) this.drawBars(lane, parts.requests, rowHeights[i]);
      else this.drawStack(averages[i], parts.requests);
      this.drawChart(kv[i], this.mostKv, parts.kv, KV_COLOURS);
      this.drawChart(queues[i], this.mostQueued, parts.queue, QUEUE_COLOURS);
      this.drawNames(lane, parts);
    });
  }

  drawGrid() {
    const { ink } = this;
    ink.fillStyle = GRID;
    for (const tick of this.axis.ticks(10).ticks) ink.fillRect(Math.round(this.x(tick)), 0, 1, this.height);
  }

  // Of each lane in view the height of its rows, pixels; null where not every request can have one.
  rowHeights(visible) {
    const { from, to } = this.axis;
    const present = visible.reduce((sum, at) => sum + this.lanes[at].present.overlapping(from, to), 0);
    if (present > MOST_BARS) return null;
    const heights = visible.map((position) => {
      const row = this.lanes[position].rows();
      let rows = 1;
      this.lanes[position].each(from, to, (stay) => (rows = Math.max(rows, row[stay] + 1)));
      return Math.min(ROW, Math.floor(this.parts(position).requests[1] / rows));
    });
    return heights.includes(0) ? null : heights;
  }

  drawBars(lane, [top, height], rowHeight) {
    const { from, to } = this.axis, { episode, ink } = this;
    const row = lane.rows(), first = this.boxes.length;
    const thick = rowHeight - (rowHeight >= 3 ? 1 : 0);
    lane.each(from, to, (stay) => {
      const x0 = Math.max(this.x(lane.start[stay]), GUTTER - 2), x1 = Math.min(this.x(lane.end[stay]), this.width + 2);
      const y = top + height - (row[stay] + 1) * rowHeight;
      const request = episode.requestOf(lane.firstPhase[stay]);
      this.boxes.push({ request, lane, stay, x: x0, y, width: Math.max(x1 - x0, 1), height: thick });
    });
    this.clip(() => {
      for (let kind = 0; kind < KINDS; kind++) {
        ink.fillStyle = COLOURS[kind];
        for (let i = first; i < this.boxes.length; i++) this.drawPhases(ink, this.boxes[i], kind);
      }
      if (thick < 10) return;
      ink.font = "9px system-ui, sans-serif";
      ink.textBaseline = "middle";
      ink.fillStyle = INK;
      ink.strokeStyle = "rgba(255, 255, 255, 0.8)"; // legible on any colour
      ink.lineWidth = 3;
      for (const box of this.boxes.slice(first)) {
        const start = Math.max(box.x, GUTTER);
        if (box.x + box.width - start < 46) continue;
        const place = [`#${box.request}`, start + 3, box.y + thick / 2 + 0.5];
        ink.strokeText(...place);
        ink.fillText(...place);
      }
    });
  }

  // The phases of a kind within a bar.
  drawPhases(ink, box, kind) {
    const { phaseKind, phaseStart, phaseEnd } = this.episode;
    const first = box.lane.firstPhase[box.stay];
    for (let p = first; p < first + box.lane.numPhases[box.stay]; p++) {
      if (phaseKind[p] !== kind) continue;
      const x0 = Math.max(this.x(phaseStart[p]), box.x), x1 = Math.min(this.x(phaseEnd[p]), box.x + box.width);
      if (x1 > x0) ink.fillRect(x0, box.y, Math.max(x1 - x0, 0.75), box.height);
    }
  }

  // Of each kind in the order of STACK, the average number in each column, with those below it.
  averages(lane) {
    let below = new Float64Array(this.low.length);
    return STACK.map((kind) => {
      const total = new Float64Array(this.low.length);
      lane.kinds[kind].averages(this.edges, total);
      for (let i = 0; i < total.length; i++) total[i] += below[i];
      below = total;
      return total;
    });
  }

  drawStack(totals, [top, height]) {
    for (let i = STACK.length - 1; i >= 0; i--) {
      this.drawArea(totals[i], this.mostRequests, [top, height], COLOURS[STACK[i]]);
    }
  }

  extremesOf(steps) {
    steps.extremes(this.edges, this.low, this.high);
    return [Float64Array.from(this.low), Float64Array.from(this.high)];
  }

  // Lowest and highest share of the KV blocks in use in each column.
  kvPercent(replica) {
    const blocks = this.episode.about.replicas[replica].num_kv_blocks || 1;
    return this.extremesOf(this.episode.kv[replica]).map((used) => used.map((each) => (100 * each) / blocks));
  }

  drawChart([low, high], most, [top, height], [below, between]) {
    this.ink.fillStyle = "#f5f7f9";
    this.ink.fillRect(GUTTER, top, this.width - GUTTER, height);
    this.drawArea(high, most, [top, height], between);
    this.drawArea(low, most, [top, height], below, 1);
  }

  // Down from each column's value; `less` pixels lower, so that what is behind shows as a line.
  drawArea(values, most, [top, height], colour, less = 0) {
    const { ink } = this, base = top + height;
    ink.fillStyle = colour;
    ink.beginPath();
    ink.moveTo(GUTTER, base);
    for (let i = 0; i < values.length; i++) {
      const y = base - Math.max(0, (Math.min(values[i], most) / most) * height - less);
      ink.lineTo(GUTTER + i * COLUMN, y);
      ink.lineTo(GUTTER + (i + 1) * COLUMN, y);
    }
    ink.lineTo(GUTTER + values.length * COLUMN, base);
    ink.fill();
  }

  drawNames(lane, parts) {
    const { ink } = this;
    ink.fillStyle = "#fff";
    ink.fillRect(0, parts.top, GUTTER - 1, this.laneHeight);
    ink.fillStyle = "#c9d1d9";
    ink.fillRect(0, Math.round(parts.top), this.width, 1);
    ink.textBaseline = "top";
    ink.fillStyle = INK;
    ink.font = `600 12px system-ui, sans-serif`;
    ink.fillText(`replica ${lane.replica}`, 8, parts.requests[0] + 1);
    ink.font = FONT;
    ink.fillStyle = FAINT;
    const { role } = this.episode.about.replicas[lane.replica];
    const range = this.areBars ? "" : `0–${whole(this.mostRequests)} requests`;
    const lines = [role === "mixed" ? "" : role, range].filter(Boolean);
    lines.forEach((line, i) => ink.fillText(line, 8, parts.requests[0] + 16 + 13 * i));
    ink.textBaseline = "middle";
    const middle = ([top, height]) => top + height / 2 + 0.5;
    const { num_kv_blocks } = this.episode.about.replicas[lane.replica];
    ink.fillText(num_kv_blocks ? `KV 0–${this.mostKv} %` : "no KV", 8, middle(parts.kv));
    ink.fillText(`queue 0–${whole(this.mostQueued)}`, 8, middle(parts.queue));
  }

  // What is at a point: the lane, the instant, and the bar if there is one.
  hit(x, y) {
    const position = Math.floor((y + this.top) / this.laneHeight);
    const lane = this.lanes[position];
    if (!lane) return null;
    const inside = (box) => x >= box.x - 1 && x <= box.x + box.width + 1 && y >= box.y && y <= box.y + box.height;
    const box = x >= GUTTER ? this.boxes.find(inside) : null;
    return { lane, time: this.time(x), request: box ? box.request : null, named: x < GUTTER };
  }

  // Over the lanes: some requests, the life of the one that is pinned, and the instant under the pointer.
  mark(requests, pinned, pointer) {
    const { marks } = this;
    marks.clearRect(0, 0, this.width, this.height);
    if (pointer !== null) {
      marks.fillStyle = "rgba(28, 39, 51, 0.35)";
      marks.fillRect(Math.round(pointer), 0, 1, this.height);
    }
    this.clip(() => {
      if (pinned !== null) this.markLife(pinned);
      requests.forEach((request) => this.markRequest(request));
    }, marks);
  }

  // A band over all lanes, from arrival to end.
  markLife(request) {
    const { marks, episode } = this;
    const from = this.x(episode.arrival[request]), to = this.x(episode.end[request]);
    marks.fillStyle = "rgba(28, 39, 51, 0.06)";
    marks.fillRect(from, 0, to - from, this.height);
  }

  markRequest(request) {
    const { marks } = this;
    marks.strokeStyle = INK;
    marks.lineWidth = 1.5;
    const boxes = this.boxes.filter((box) => box.request === request);
    for (const box of boxes) marks.strokeRect(box.x - 1, box.y - 1, box.width + 2, box.height + 2);
    if (!boxes.length) this.markWithoutBars(request);
  }

  // A strip at the top of every lane where it has been.
  markWithoutBars(request) {
    const { marks, episode } = this;
    this.lanes.forEach((lane, position) => {
      const [top] = this.parts(position).requests;
      for (let p = episode.firstPhase[request]; p < episode.firstPhase[request + 1]; p++) {
        if (episode.phaseReplica[p] !== lane.replica) continue;
        const x = this.x(episode.phaseStart[p]), width = Math.max(this.x(episode.phaseEnd[p]) - x, 2);
        marks.strokeRect(x, top, width, 8);
        marks.fillStyle = COLOURS[episode.phaseKind[p]];
        marks.fillRect(x, top, width, 8);
      }
    });
  }

  clip(draw, ink = this.ink) {
    ink.save();
    ink.beginPath();
    ink.rect(GUTTER, 0, this.width - GUTTER, this.height);
    ink.clip();
    draw();
    ink.restore();
  }
}

const NICE = [1, 1.5, 2, 3, 4, 5, 6, 8, 10];

// A round number that none in the arrays exceeds, at least 1.
function scale(arrays) {
  let most = 1;
  for (const values of arrays) for (const value of values) if (value > most) most = value;
  return roundUp(most, NICE);
}

// Makes a canvas as large as its place, sharp on any screen; returns its context.
function fit(canvas, width, height) {
  const density = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(density, 0, 0, density, 0, 0);
  return context;
}

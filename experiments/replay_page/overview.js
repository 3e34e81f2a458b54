// The whole episode in a strip, with the visible stretch as a window that can be moved; below it the axis.

const STRIP = 46, AXIS = 20; // pixels high

class Overview {
  constructor(canvas, axis) {
    this.canvas = canvas;
    this.axis = axis;
    this.kinds = [];
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.centre(event);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) this.centre(event);
    });
  }

  centre(event) {
    const at = ((event.offsetX - GUTTER) / (this.width - GUTTER)) * this.axis.end_s;
    this.axis.show(at - this.axis.span / 2, at + this.axis.span / 2);
  }

  resize(width) {
    this.width = width;
    this.ink = fit(this.canvas, width, STRIP + AXIS);
    this.picture = document.createElement("canvas");
    this.drawPicture();
  }

  // kinds: an Occupancy of each kind of phase, of all requests shown.
  show(kinds) {
    this.kinds = kinds;
    this.drawPicture();
  }

  drawPicture() {
    if (!this.kinds.length || !this.picture) return;
    const width = this.width - GUTTER, columns = Math.floor(width / COLUMN);
    const ink = fit(this.picture, width, STRIP);
    const edges = Float64Array.from({ length: columns + 1 }, (_, i) => (i / columns) * this.axis.end_s);
    const totals = Array.from({ length: columns }, () => [0]);
    const means = new Float64Array(columns);
    for (const kind of STACK) {
      this.kinds[kind].averages(edges, means);
      totals.forEach((total, i) => total.push(total.at(-1) + means[i]));
    }
    this.most = Math.max(1, ...totals.map((total) => total.at(-1)));
    const y = (value) => STRIP - (value / this.most) * (STRIP - 3);
    STACK.forEach((kind, k) => {
      ink.fillStyle = COLOURS[kind];
      totals.forEach((total, i) => ink.fillRect(i * COLUMN, y(total[k + 1]), COLUMN, y(total[k]) - y(total[k + 1])));
    });
  }

  draw(pinned, episode) {
    const { ink, axis } = this;
    const x = (t) => GUTTER + (t / axis.end_s) * (this.width - GUTTER);
    ink.fillStyle = "#fff";
    ink.fillRect(0, 0, this.width, STRIP + AXIS);
    if (this.picture.width) ink.drawImage(this.picture, GUTTER, 0, this.width - GUTTER, STRIP);
    ink.fillStyle = INK;
    ink.font = "600 12px system-ui, sans-serif";
    ink.textBaseline = "top";
    ink.fillText("all replicas", 8, 6);
    ink.fillStyle = FAINT;
    ink.font = FONT;
    ink.fillText(`up to ${whole(this.most ?? 0)}`, 8, 22);
    ink.fillStyle = "rgba(28, 39, 51, 0.22)";
    ink.fillRect(GUTTER, 0, x(axis.from) - GUTTER, STRIP);
    ink.fillRect(x(axis.to), 0, this.width - x(axis.to), STRIP);
    ink.strokeStyle = INK;
    ink.lineWidth = 1;
    ink.strokeRect(x(axis.from) + 0.5, 0.5, Math.max(x(axis.to) - x(axis.from) - 1, 2), STRIP - 1);
    if (pinned !== null) {
      ink.fillStyle = INK;
      const at = x(episode.arrival[pinned]);
      ink.fillRect(at, 0, Math.max(x(episode.end[pinned]) - at, 2), 4);
    }
    this.drawAxis();
  }

  drawAxis() {
    const { ink, axis } = this;
    const { ticks, decimals } = axis.ticks(8);
    ink.fillStyle = FAINT;
    ink.textBaseline = "middle";
    ink.textAlign = "center";
    for (const tick of ticks) {
      const x = GUTTER + ((tick - axis.from) / axis.span) * (this.width - GUTTER);
      const text = tick.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
      if (x < this.width - 24) ink.fillText(`${text} s`, Math.max(x, GUTTER + 10), STRIP + AXIS / 2 + 1);
    }
    ink.textAlign = "left";
  }
}

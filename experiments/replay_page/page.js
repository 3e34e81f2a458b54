// The page: what the pointer and the keys do, and what is drawn when.

class Page {
  constructor(episode) {
    this.episode = episode;
    this.stage = document.getElementById("stage");
    this.axis = new TimeAxis(episode.end_s, () => this.redraw());
    this.view = new LaneView(document.getElementById("lanes"), document.getElementById("marks"), this.axis, episode);
    this.overview = new Overview(document.getElementById("overview"), this.axis);
    this.scroller = document.getElementById("scroller");
    this.tip = document.getElementById("tip");
    this.queues = queues(episode);
    this.pinned = null;
    this.pointer = null; // [x, y] on the lanes
    this.leastHeight = 76;
    this.frame_ms = NaN;
    this.panel = new Panel(
      episode,
      () => this.filter(),
      (request) => this.goTo(request),
      (height) => this.setHeight(height),
    );
    this.title();
    this.listen();
    this.panel.showPinned(null);
    this.filter();
    new ResizeObserver(() => this.resize()).observe(this.stage);
    this.resize();
  }

  title() {
    const { about } = this.episode;
    const policies = Object.values(about.policies).join(" + ");
    const title = `${policies} on ${about.scenario}`;
    document.title = `${title}, seed ${about.seed}`;
    document.querySelector("h1").textContent = title;
    const split = about.split === "train" ? " of training" : "";
    const facts = [
      `seed ${about.seed}${split}`,
      `${whole(this.episode.count)} requests`,
      `${whole(this.episode.numReplicas)} replica${this.episode.numReplicas > 1 ? "s" : ""}`,
      about.source,
      about.objective && `objective: ${about.objective}`,
    ];
    document.getElementById("facts").textContent = facts.filter(Boolean).join(" · ");
    const legend = document.getElementById("legend");
    const used = new Set(this.episode.phaseKind);
    about.phases.forEach((name, kind) => {
      if (!used.has(kind)) return;
      const item = element("li", name);
      item.title = MEANINGS[kind];
      item.style.setProperty("--colour", COLOURS[kind]);
      legend.append(item);
    });
  }

  // The filters have changed: the lanes hold other requests.
  filter() {
    const { episode } = this;
    this.shown = this.panel.shown();
    this.numShown = this.shown.reduce((sum, one) => sum + one, 0);
    document.getElementById("count").textContent =
      `${whole(this.numShown)} of ${whole(episode.count)} shown`;
    const phases = phasesByReplica(episode, this.shown);
    const replicas = this.panel.replica < 0 ? [...phases.keys()] : [this.panel.replica];
    this.view.lanes = replicas.map((r) => new Lane(episode, r, phases[r], this.queues[r]));
    this.lives = lives(episode, this.shown);
    this.overview.show(occupancies(episode, phases.flat()));
    this.layOut();
    this.redraw();
  }

  setHeight(height) {
    this.leastHeight = height;
    this.layOut();
    this.redraw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.scroller;
    this.view.resize(width, height);
    this.overview.resize(width);
    this.layOut();
    this.draw(); // at once: a canvas of a new size is empty
  }

  // Lanes share the height there is, and scroll where that is too little.
  layOut() {
    const { view } = this, height = this.scroller.clientHeight;
    view.laneHeight = Math.max(this.leastHeight, Math.floor(height / view.lanes.length));
    document.getElementById("extent").style.height = `${view.laneHeight * view.lanes.length}px`;
    view.top = this.scroller.scrollTop;
  }

  redraw() {
    if (!this.due) this.due = requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.due);
    this.due = 0;
    const began = performance.now();
    this.view.top = this.scroller.scrollTop;
    this.view.draw();
    this.overview.draw(this.pinned, this.episode);
    this.point();
    this.readOut();
    this.frame_ms = performance.now() - began;
    clearTimeout(this.tableDue);
    this.tableDue = setTimeout(() => {
      this.panel.showSlowest(this.shown, this.axis.from, this.axis.to, this.pinned);
    }, 120);
  }

  readOut() {
    const { from, to, span, end_s } = this.axis;
    document.getElementById("range").textContent =
      `${instant(from, span)} to ${instant(to, span)} (${duration(span)} of ${duration(end_s)}), ` +
      `${whole(this.lives.overlapping(from, to))} requests, ` +
      (this.view.areBars ? "a bar each" : "as average numbers; a bar each where there is room: zoom in, filter, or click a replica");
  }

  // What is under the pointer, and who is pinned.
  point() {
    const hit = this.pointer && this.view.hit(...this.pointer);
    const hovered = hit ? hit.request : null;
    const marked = [this.pinned, hovered].filter((request, i, all) => request !== null && all.indexOf(request) === i);
    this.view.mark(marked, this.pinned, hit && !hit.named ? this.pointer[0] : null);
    this.stage.classList.toggle("pointing", hovered !== null || Boolean(hit && hit.named));
    this.tip.hidden = !hit || Boolean(this.dragged);
    if (this.tip.hidden) return;
    const [heading, list] = hit.named ? this.laneTip(hit.lane) : hovered === null ? this.instantTip(hit) : this.requestTip(hovered);
    this.tip.replaceChildren(element("h3", heading), list);
    const { width, height } = this.tip.getBoundingClientRect();
    const place = this.scroller.getBoundingClientRect();
    const [x, y] = [place.left + this.pointer[0], place.top + this.pointer[1]];
    this.tip.style.left = `${x + 16 + width > innerWidth ? Math.max(x - 16 - width, 4) : x + 16}px`;
    this.tip.style.top = `${Math.max(4, Math.min(y + 12, innerHeight - height - 8))}px`;
  }

  requestTip(request) {
    return [`Request ${request}`, definitions(facts(this.episode, request))];
  }

  laneTip(lane) {
    const alone = this.panel.replica >= 0;
    return [replicaName(this.episode, lane.replica), element("p", alone ? "Click for all replicas" : "Click to see it alone")];
  }

  instantTip({ lane, time }) {
    const { about, kv } = this.episode;
    const blocks = about.replicas[lane.replica].num_kv_blocks, used = kv[lane.replica].at(time);
    const present = about.phases.map((name, kind) => [name, lane.kinds[kind].at(time)]);
    const rows = present.filter(([, count], kind) => count > 0 || kind <= DECODE).map(([name, count]) => [name, whole(count)]);
    if (blocks) rows.push(["KV blocks", `${whole(used)} of ${whole(blocks)} (${((100 * used) / blocks).toFixed(1)} %)`]);
    rows.push(["queue", whole(lane.queue.at(time))]);
    return [`${replicaName(this.episode, lane.replica)} at ${instant(time, this.axis.span)}`, definitions(rows)];
  }

  pin(request) {
    this.pinned = request;
    this.panel.showPinned(request);
    this.redraw();
  }

  // Pins a request and shows its life, and some time around it.
  goTo(request) {
    const { arrival, end } = this.episode;
    this.pin(request);
    if (!(end[request] > arrival[request])) return;
    const life = end[request] - arrival[request];
    this.axis.show(arrival[request] - 0.3 * life, end[request] + 0.3 * life);
    const replica = this.episode.phaseReplica[this.episode.firstPhase[request]];
    const position = this.view.lanes.findIndex((lane) => lane.replica === replica);
    if (position >= 0 && !(this.view.parts(position).top >= 0 && this.view.parts(position).top + this.view.laneHeight <= this.view.height)) {
      this.scroller.scrollTop = position * this.view.laneHeight;
    }
  }

  listen() {
    const { scroller, axis, view } = this;
    scroller.addEventListener("scroll", () => this.redraw());
    scroller.addEventListener("wheel", (event) => {
      event.preventDefault();
      const [x] = this.place(event);
      const unit = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1; // pixels
      const across = unit * event.deltaX, along = unit * event.deltaY;
      if (event.shiftKey) scroller.scrollTop += along || across; // browsers may turn the wheel by 90 degrees
      else if (Math.abs(across) > Math.abs(along)) axis.pan((across / view.width) * axis.span);
      else axis.zoom(1.0015 ** Math.max(-400, Math.min(400, along)), view.time(Math.max(x, GUTTER)));
    }, { passive: false });
    scroller.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.offsetX > scroller.clientWidth) return;
      scroller.setPointerCapture(event.pointerId);
      this.pressed = { x: event.clientX, y: event.clientY };
      this.dragged = false;
    });
    scroller.addEventListener("pointermove", (event) => this.move(event));
    scroller.addEventListener("pointerup", (event) => this.release(event));
    scroller.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.point();
    });
    scroller.addEventListener("dblclick", (event) => {
      if (this.place(event)[0] >= GUTTER) axis.reset();
    });
    document.addEventListener("keydown", (event) => this.press(event));
  }

  place(event) {
    const { left, top } = this.scroller.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  move(event) {
    this.pointer = this.place(event);
    if (this.pressed) {
      const { x, y } = this.pressed;
      this.dragged ||= Math.hypot(event.clientX - x, event.clientY - y) > 4;
      if (this.dragged) {
        this.axis.pan(((x - event.clientX) / (this.view.width - GUTTER)) * this.axis.span);
        this.scroller.scrollTop += y - event.clientY;
        this.pressed = { x: event.clientX, y: event.clientY };
      }
    }
    this.point();
  }

  release(event) {
    if (this.pressed && !this.dragged) {
      const hit = this.view.hit(...this.place(event));
      if (hit && hit.named) {
        this.panel.replica = this.panel.replica < 0 ? hit.lane.replica : -1;
        this.filter();
      } else if (hit && hit.request !== null) this.pin(hit.request);
    }
    this.pressed = null;
    this.dragged = false;
  }

  press(event) {
    if (event.target.closest("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    const { axis, scroller } = this;
    const actions = {
      ArrowLeft: () => axis.pan(-axis.span / 10),
      ArrowRight: () => axis.pan(axis.span / 10),
      ArrowUp: () => axis.zoom(1 / 1.5),
      ArrowDown: () => axis.zoom(1.5),
      "+": () => axis.zoom(1 / 1.5),
      "-": () => axis.zoom(1.5),
      PageUp: () => (scroller.scrollTop -= this.view.laneHeight),
      PageDown: () => (scroller.scrollTop += this.view.laneHeight),
      Home: () => axis.reset(),
      0: () => axis.reset(),
      Escape: () => this.pin(null),
    };
    const action = actions[event.key === "=" ? "+" : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  // In the window, the middle of what is visible of a request's first bar; null where it has none.
  barOf(request) {
    const box = this.view.boxes.find((box) => box.request === request && box.x + box.width > GUTTER);
    if (!box) return null;
    const { left, top } = this.scroller.getBoundingClientRect();
    const from = Math.max(box.x, GUTTER), to = Math.min(box.x + box.width, this.view.width);
    return { x: left + (from + to) / 2, y: top + box.y + box.height / 2 };
  }
}

// For the console: what the page shows, to be read.
function readable(page) {
  const { episode, axis } = page;
  return Object.freeze({
    about: episode.about,
    get from_s() { return axis.from; },
    get to_s() { return axis.to; },
    get shown() { return page.numShown; },
    get bars() { return new Set(page.view.boxes.map((box) => box.request)).size; },
    get pinned() { return page.pinned; },
    opened_ms: performance.now(),
    get frame_ms() { return page.frame_ms; },
    request: (i) => Object.fromEntries(facts(episode, i)),
    course: (i) => course(episode, i).map((phase) => phase.text),
    place: (i) => page.barOf(i),
    queue: (replica, t) => page.queues[replica].at(t),
    kvBlocks: (replica, t) => episode.kv[replica].at(t),
  });
}

try {
  window.replay = readable(new Page(await readEpisode()));
  document.body.classList.add("ready");
} catch (error) {
  document.getElementById("facts").textContent = `This page cannot be shown: ${error.message}`;
  throw error;
}

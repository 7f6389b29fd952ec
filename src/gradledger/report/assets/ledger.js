"use strict";
// The ledger's picture: cups (micro-batches) poured into buckets (windows), emptied between. Uses helpers of page.js.
const SVG = "http://www.w3.org/2000/svg";
const ABOVE = 44, BELOW = 40;
const LEAST_HEADROOM = 1.04, MOST_HEADROOM = 1.7;

function shape(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const total = (cups, part) => cups.reduce((sum, cup) => sum + cup[part], 0);
const inWords = (value) => Number(value.toPrecision(4)).toLocaleString("en");
const counted = (amount, noun) => `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : noun.endsWith("ch") ? "es" : "s"}`;
const ENDINGS = { step: "", skipped: "step skipped", void: "given up", open: "no step" };

function ratio(bucket) {
  const weight = total(bucket.cups, 0);
  return weight ? total(bucket.cups, 1) / weight : 1;
}
const room = (bucket) => total(bucket.cups, 0) + total(bucket.spilled, 0);
const isEven = (bucket) => bucket.cups.every(([weight, height]) => Math.abs(height - weight * ratio(bucket)) <= 1e-3 * Math.max(weight, 1e-9));
const isLost = (bucket) => bucket.outcome === "skipped" || bucket.outcome === "void";
const isOff = (bucket) => bucket.stale > 0 || bucket.spilled.length > 0 || bucket.outcome === "open"
  || Math.abs(ratio(bucket) - 1) > 1e-3 || !isEven(bucket);

function sentence(track, index) {
  const bucket = track.buckets[track.sequence[index]];
  const weights = bucket.cups.map((cup) => cup[0]);
  const weight = total(bucket.cups, 0);
  const alike = weights.every((one) => one === weights[0]);
  const unit = track.unit;
  const name = bucket.outcome === "step" ? `Update ${track.updates[index]}` : `Window before update ${track.updates[index]} (${ENDINGS[bucket.outcome]})`;
  const parts = [unit === "micro-batches"
    ? `${name}: ${counted(weights.length, "micro-batch")}.`
    : `${name}: ${alike ? `${counted(weights.length, "micro-batch")} of ${inWords(weights[0] ?? 0)}` : `micro-batches of ${weights.map(inWords).join(" + ")}`} = ${inWords(weight)} ${unit}.`];
  if (!isEven(bucket)) parts.push("Micro-batches count unlike their weights.");
  else if (Math.abs(ratio(bucket) - 1) > 1e-3) parts.push(`The gradient is ${inWords(ratio(bucket))} times that of the whole batch.`);
  else if (bucket.outcome === "step" && bucket.stale === 0 && !bucket.spilled.length) parts.push("Full to the brim, from empty: the gradient of the whole batch.");
  if (bucket.stale > 0) parts.push(`Not zeroed: ${inWords(bucket.stale)} ${unit} of earlier updates are still in it.`);
  if (bucket.spilled.length) parts.push(`${counted(bucket.spilled.length, "micro-batch")} zeroed away before the step.`);
  if (bucket.outcome === "open") parts.push("No step ever used it.");
  return parts.join(" ");
}

class Picture {
  constructor(root, tracks) {
    this.root = root;
    this.tracks = tracks;
    this.detail = root.querySelector("[data-detail]");
    this.overview = root.querySelector("[data-overview]");
    this.readout = root.querySelector("[data-readout]");
    this.select = root.querySelector("[data-track]");
    this.choose(0);
    this.listen();
  }

  choose(number) {
    this.track = this.tracks[number];
    this.count = this.track.sequence.length;
    this.capacity = Math.max(...this.track.buckets.map((bucket) => room(bucket)), 1e-9);
    const highest = Math.max(...this.track.buckets.map((bucket) => total(bucket.cups, 1) + bucket.stale));
    this.headroom = Math.min(Math.max(highest / this.capacity, LEAST_HEADROOM), MOST_HEADROOM);
    this.span = Math.min(this.count, this.detail.clientWidth < 600 ? 4 : 8);
    this.start = 0;
    this.chosen = Math.max(0, this.track.sequence.findIndex((which) => isOff(this.track.buckets[which])));
    this.reveal(this.chosen);
    this.table();
    this.legend();
    this.draw();
  }

  bucket(index) { return this.track.buckets[this.track.sequence[index]]; }

  moveTo(start) { this.start = Math.round(Math.min(Math.max(0, start), this.count - this.span)); }

  reveal(index) {
    if (index < this.start) this.moveTo(index);
    if (index >= this.start + this.span) this.moveTo(index - this.span + 1);
  }

  pick(index) {
    this.chosen = Math.min(Math.max(0, index), this.count - 1);
    this.reveal(this.chosen);
    this.draw();
  }

  zoom(how) {
    const middle = this.start + this.span / 2;
    const wanted = how === "all" ? this.count : how === "in" ? Math.floor(this.span / 2) : this.span * 2;
    this.span = Math.min(Math.max(1, wanted), this.count);
    this.moveTo(middle - this.span / 2);
    this.chosen = Math.min(Math.max(this.chosen, this.start), this.start + this.span - 1);
    this.draw();
  }

  listen() {
    for (const button of this.root.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => this.zoom(button.dataset.zoom));
    for (const button of this.root.querySelectorAll("[data-move]")) {
      button.addEventListener("click", () => { this.moveTo(this.start + Number(button.dataset.move) * Math.ceil(this.span * 0.75)); this.draw(); });
    }
    this.tracks.forEach((track, i) => {
      const run = DATA.groups.length ? `${DATA.runs[track.run]} · ` : "";
      const option = make("option", `${run}${track.account}${track.rank ? ` · rank ${track.rank}` : ""}`);
      option.value = i;
      this.select.append(option);
    });
    this.select.parentElement.hidden = this.tracks.length < 2;
    this.select.addEventListener("change", () => this.choose(Number(this.select.value)));
    this.detail.addEventListener("keydown", (event) => this.key(event));
    this.detail.addEventListener("click", (event) => this.pick(this.indexAt(this.detail, event)));
    this.detail.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") this.say(this.indexAt(this.detail, event)); });
    this.detail.addEventListener("pointerleave", () => this.say(this.chosen));
    const drag = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const place = (event.clientX - this.overview.getBoundingClientRect().left) / this.overview.clientWidth;
      this.moveTo(place * this.count - this.span / 2);
      this.draw();
    };
    this.overview.addEventListener("pointerdown", (event) => { this.overview.setPointerCapture(event.pointerId); drag(event); });
    this.overview.addEventListener("pointermove", drag);
    new ResizeObserver(() => this.draw()).observe(this.detail);
  }

  key(event) {
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -this.span, PageDown: this.span, Home: -this.count, End: this.count };
    if (event.key in moves) this.pick(this.chosen + moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom("in");
    else if (event.key === "-") this.zoom("out");
    else return;
    event.preventDefault();
  }

  indexAt(svg, event) {
    const place = (event.clientX - svg.getBoundingClientRect().left) / svg.clientWidth;
    return Math.min(this.start + Math.floor(place * this.span), this.count - 1);
  }

  say(index) { this.readout.textContent = sentence(this.track, index); }

  draw() {
    const range = this.root.querySelector("[data-range]");
    const skipped = this.track.num_windows > this.count ? ` (${this.count.toLocaleString("en")} drawn)` : "";
    range.textContent = `windows ${(this.start + 1).toLocaleString("en")}–${(this.start + this.span).toLocaleString("en")} of ${this.track.num_windows.toLocaleString("en")}${skipped}`;
    this.root.querySelector('[data-zoom="in"]').disabled = this.span <= 1;
    this.root.querySelector('[data-zoom="out"]').disabled = this.span >= this.count;
    this.root.querySelector('[data-move="-1"]').disabled = this.start <= 0;
    this.root.querySelector('[data-move="1"]').disabled = this.start + this.span >= this.count;
    this.drawDetail();
    this.drawOverview();
    this.say(this.chosen);
  }

  drawDetail() {
    const width = this.detail.clientWidth, height = this.detail.clientHeight;
    this.base = height - BELOW;
    this.perUnit = (this.base - ABOVE) / (this.capacity * this.headroom);
    const hatch = shape("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" });
    hatch.append(shape("rect", { width: 2.5, height: 6, class: "over" }));
    const definitions = shape("defs", {});
    definitions.append(hatch);
    this.detail.replaceChildren(definitions);
    const slot = width / this.span;
    if (slot < 3) return this.drawColumns(this.detail, this.base, this.perUnit, this.start, this.span);
    for (let i = this.start; i < this.start + this.span; i += 1) this.drawBucket(i, (i - this.start) * slot, slot);
  }

  drawBucket(index, left, slot) {
    const bucket = this.bucket(index);
    const wide = slot >= 84;
    const group = shape("g", { class: isLost(bucket) ? "lost" : "", "data-window": index });
    if (index === this.chosen && slot > 8) group.append(shape("rect", { x: left, y: 0, width: slot, height: this.detail.clientHeight, class: "chosen" }));
    const inner = Math.min(slot * (slot > 14 ? 0.66 : 0.9), 150);
    const x = left + (slot - inner) / 2;
    const top = this.fill(group, bucket, x, inner);
    if (slot > 14) {
      const rim = this.base - room(bucket) * this.perUnit - 5;
      const lip = Math.min(5, inner / 8);
      group.append(shape("path", { class: "wall", d: `M${x - lip - 2},${rim} L${x - 2},${rim + 6} L${x - 2},${this.base + 2} L${x + inner + 2},${this.base + 2} L${x + inner + 2},${rim + 6} L${x + inner + lip + 2},${rim}` }));
    }
    if (wide) this.pour(group, bucket, x, inner, top);
    this.label(group, bucket, index, left, slot);
    this.detail.append(group);
  }

  // Cups in the bucket, one on the other, over what was left from before. Returns the level that they reach.
  fill(group, bucket, x, inner) {
    let y = this.base;
    const floor = 22;
    const block = (height, className, text) => {
      const next = Math.max(floor, y - height * this.perUnit);
      const tall = y - next;
      if (tall > 0) group.append(shape("rect", { x, y: next, width: inner, height: Math.max(0.5, tall - (tall > 4 ? 1 : 0)), class: className, rx: tall > 6 ? 2 : 0 }));
      if (text && tall >= 15 && inner >= 30) group.append(shape("text", { x: x + inner / 2, y: next + tall / 2 + 4, class: "inside" }, text));
      y = next;
    };
    if (bucket.stale) block(bucket.stale, "stale");
    bucket.cups.forEach(([weight, height], i) => block(height, `cup${i % 2 ? " even" : ""}`, inWords(weight)));
    bucket.spilled.forEach(([weight]) => block(weight, "spilled"));
    if (y === floor) group.append(shape("path", { class: "over", d: `M${x + inner / 2 - 6},${floor - 2} l6,-8 l6,8 z` }));
    return y;
  }

  // Small cups above the bucket, tipped into it.
  pour(group, bucket, x, inner, level) {
    const gap = inner / Math.max(1, bucket.cups.length);
    if (gap < 14 || level < ABOVE - 4) return;
    bucket.cups.forEach((cup, i) => {
      const middle = x + gap * (i + 0.5);
      group.append(shape("path", { class: `cup${i % 2 ? " even" : ""}`, d: `M${middle - 6},8 h12 l-2,11 h-8 z` }));
      group.append(shape("path", { class: "flow", d: `M${middle},21 V${level - 9} m-3,-4 l3,4 l3,-4` }));
    });
  }

  label(group, bucket, index, left, slot) {
    const middle = left + slot / 2;
    const every = Math.ceil(46 / slot);
    const write = (y, text, bad) => group.append(shape("text", { x: middle, y: this.base + y, class: `text${bad ? " bad" : ""}` }, text));
    if ((index - this.start) % every === 0) {
      const number = `${slot >= 84 ? "update " : ""}${this.track.updates[index].toLocaleString("en")}`;
      write(18, bucket.outcome === "step" ? number : ENDINGS[bucket.outcome], bucket.outcome === "open");
    }
    if (slot < 84) return;
    const factor = ratio(bucket);
    if (bucket.stale) write(33, "not zeroed", true);
    else if (bucket.spilled.length) write(33, `${bucket.spilled.length} zeroed away`, true);
    else if (Math.abs(factor - 1) > 1e-3) write(33, `× ${inWords(factor)}`, true);
    else if (index > 0) {
      group.append(shape("circle", { cx: left, cy: this.base - 8, r: 8, class: "chosen" }), shape("circle", { cx: left, cy: this.base - 8, r: 8, class: "zero" }),
        shape("text", { x: left, y: this.base - 4, class: "text" }, "0"));
    }
  }

  // Too many windows for buckets: columns, each as high as the highest of its windows.
  drawColumns(svg, base, perUnit, start, span) {
    const width = svg.clientWidth;
    const columns = Math.min(span, Math.floor(width / 2));
    for (let column = 0; column < columns; column += 1) {
      const first = start + Math.floor(column * span / columns), last = Math.max(first + 1, start + Math.floor((column + 1) * span / columns));
      let highest = 0, off = false, dim = true;
      for (let i = first; i < last; i += 1) {
        const bucket = this.bucket(i);
        highest = Math.max(highest, total(bucket.cups, 1) + bucket.stale);
        off ||= isOff(bucket);
        dim &&= isLost(bucket);
      }
      const tall = Math.min(base - 3, Math.max(1, highest * perUnit));
      svg.append(shape("rect", { x: column * width / columns, y: base - tall, width: Math.max(1, width / columns - (width / columns > 3 ? 1 : 0.2)), height: tall, class: `bin${off ? " off" : dim ? " dim" : ""}` }));
    }
  }

  drawOverview() {
    const width = this.overview.clientWidth, height = this.overview.clientHeight;
    this.overview.replaceChildren();
    if (!height) return; // on paper it is left out
    this.drawColumns(this.overview, height - 4, (height - 12) / (this.capacity * this.headroom), 0, this.count);
    this.overview.append(shape("rect", { class: "view", x: this.start / this.count * width + 0.5, y: 1, width: Math.max(4, this.span / this.count * width - 1), height: height - 2, rx: 2 }));
  }

  legend() {
    const shown = new Set(["cup", "wall"]);
    for (const bucket of this.track.buckets) {
      if (bucket.stale) shown.add("stale");
      if (bucket.spilled.length) shown.add("spilled");
      if (isLost(bucket)) shown.add("lost");
    }
    if (this.track.buckets.some((bucket) => !bucket.stale)) shown.add("zero");
    const meanings = { cup: "a micro-batch, as high as what it adds", wall: `the effective batch (${this.track.unit})`, zero: "zeroed between updates",
      stale: "left from earlier updates", spilled: "zeroed away before the step", lost: "step skipped or window given up" };
    this.root.querySelector("[data-legend]").replaceChildren(...Object.keys(meanings).filter((key) => shown.has(key)).map((key) => {
      const item = make("li");
      const icon = shape("svg", { viewBox: "0 0 18 14", "aria-hidden": "true" });
      if (key === "zero") icon.append(shape("circle", { cx: 9, cy: 7, r: 6, class: "zero" }), shape("text", { x: 9, y: 11, class: "text" }, "0"));
      else if (key === "wall") icon.append(shape("path", { d: "M2,2 v10 h14 v-10", class: "wall" }));
      else {
        const group = shape("g", { class: key === "lost" ? "lost" : "" });
        group.append(shape("rect", { x: 2, y: 2, width: 14, height: 10, class: key === "lost" ? "cup" : key }));
        icon.append(group);
      }
      item.append(icon, meanings[key]);
      return item;
    }));
  }

  table() {
    const details = this.root.querySelector('[data-table="ledger"]');
    details.querySelector(".scroll").replaceChildren();
    details.open = false;
    if (this.hasTable) return;
    this.hasTable = true;
    startTable(details, () => table(["update", "micro-batches", this.track.unit, "adds", "left over", "zeroed away", "ended"],
      this.track.sequence.map((which, i) => {
        const bucket = this.track.buckets[which];
        return [this.track.updates[i], bucket.cups.length, inWords(total(bucket.cups, 0)), inWords(total(bucket.cups, 1)),
          inWords(bucket.stale), bucket.spilled.length, bucket.outcome];
      })));
  }
}

const pictureRoot = document.querySelector("[data-ledger]");
if (pictureRoot && DATA.tracks.length) new Picture(pictureRoot, DATA.tracks);

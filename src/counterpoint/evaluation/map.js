document.querySelectorAll(".map").forEach((box) => {
  const known = JSON.parse(box.querySelector("script").textContent);
  const canvases = [...box.querySelectorAll("canvas")], tip = box.querySelector(".hover");
  const find = box.querySelector(".find"), said = find.querySelector("output"), typed = find.querySelector("input");
  const numbers = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const group = numbers(known.group, Uint8Array), mate = numbers(known.mate, Int16Array), count = group.length;
  const points = known.points.map((sides) => sides.map((side) => numbers(side, Int16Array)));
  const ranks = known.ranks.map((of) => numbers(of, Uint8Array));
  const radius = Math.max(2, Math.min(5, 160 / Math.sqrt(count))), room = 12, reach = 16;
  const stride = count % 7919 ? 7919 : 1;  // groups are drawn through each other, not one over the other
  const shapes = [
    (p, r) => p.arc(0, 0, r, 0, 7),
    (p, r) => p.rect(-0.85 * r, -0.85 * r, 1.7 * r, 1.7 * r),
    (p, r) => corners(p, r * 1.2, [[0, -1], [0.87, 0.6], [-0.87, 0.6]]),
    (p, r) => corners(p, r * 1.2, [[0, -1], [1, 0], [0, 1], [-1, 0]]),
    (p, r) => corners(p, r * 1.2, [[0, 1], [0.87, -0.6], [-0.87, -0.6]]),
    (p, r) => { p.rect(-r, -r / 3, 2 * r, r / 1.5); p.rect(-r / 3, -r, r / 1.5, 2 * r); },
    (p, r) => { p.rotate(Math.PI / 4); p.rect(-r, -r / 3, 2 * r, r / 1.5); p.rect(-r / 3, -r, r / 1.5, 2 * r); },
    (p, r) => corners(p, r * 1.2, around(10, (i) => (i % 2 ? 0.45 : 1))),
    (p, r) => corners(p, r * 1.1, around(5, () => 1)),
    (p, r) => corners(p, r * 1.1, around(6, () => 1)),
  ];
  const drawn = canvases.map(() => document.createElement("canvas"));
  let marked = -1, ringed = [], at = -1, widths = [0];

  function around(n, far) {
    return Array.from({length: n}, (_, i) => {
      const turn = (2 * Math.PI * i) / n;
      return [far(i) * Math.sin(turn), -far(i) * Math.cos(turn)];
    });
  }
  function corners(p, r, list) {
    list.forEach(([x, y], i) => (i ? p.lineTo(x * r, y * r) : p.moveTo(x * r, y * r)));
    p.closePath();
  }
  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
  function place(k, i) {
    const wide = widths[k] - 2 * room;
    return [room + (points[k][0][i] / 32767) * wide, room + (1 - points[k][1][i] / 32767) * wide];
  }
  function draw() {
    const fine = devicePixelRatio || 1, size = Math.ceil(2 * (radius * 1.2 + 2) * fine);
    const stamps = known.groups.map((_, i) => {
      const stamp = document.createElement("canvas"), p = stamp.getContext("2d");
      stamp.width = stamp.height = size;
      p.setTransform(fine, 0, 0, fine, size / 2, size / 2);
      p.beginPath();
      shapes[i](p, radius);
      p.globalAlpha = 0.8;
      p.fillStyle = colour(`--group-${i}`);
      p.fill();
      return stamp;
    });
    widths = canvases.map((canvas) => canvas.clientWidth);
    if (!Math.min(...widths)) return;  // not laid out yet
    canvases.forEach((canvas, k) => {
      canvas.width = canvas.height = drawn[k].width = drawn[k].height = Math.round(canvas.clientWidth * fine);
      const pen = drawn[k].getContext("2d");
      for (let j = 0; j < count; j++) {
        const i = (j * stride) % count, [x, y] = place(k, i);
        pen.drawImage(stamps[group[i]], Math.round(x * fine - size / 2), Math.round(y * fine - size / 2));
      }
    });
    mark();
  }
  function partners(i) {
    if (mate[i] >= 0) return [mate[i]];
    const found = [];
    mate.forEach((other, j) => { if (other === i) found.push(j); });
    return found;
  }
  function mark() {
    if (!Math.min(...widths)) return;
    const fine = devicePixelRatio || 1, ink = colour("--ink");
    canvases.forEach((canvas, k) => {
      const pen = canvas.getContext("2d");
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(drawn[k], 0, 0);
      pen.setTransform(fine, 0, 0, fine, 0, 0);
      pen.strokeStyle = ink;
      const ring = (i, wide, r) => {
        pen.lineWidth = wide;
        pen.beginPath();
        pen.arc(...place(k, i), r, 0, 7);
        pen.stroke();
      };
      ringed.forEach((i) => ring(i, 1.5, radius + 2));
      if (marked < 0) return;
      ring(marked, 2.5, radius + 4);
      partners(marked).forEach((other) => {
        ring(other, 1.5, radius + 3);
        pen.lineWidth = 1.5;
        pen.beginPath();
        pen.moveTo(...place(k, marked));
        pen.lineTo(...place(k, other));
        pen.stroke();
      });
    });
  }
  function tell(i, k) {
    marked = i;
    mark();
    tip.hidden = i < 0;
    if (i < 0) return;
    const words = document.createElement("p"), more = document.createElement("small"), rank = (of) => (of[i] > 100 ? "beyond 100" : of[i]);
    words.dir = "auto";
    words.textContent = known.texts[i];
    more.textContent = known.groups[group[i]];
    if (ranks.length && ranks[0][i]) more.textContent += `, its first positive at rank ${ranks.map(rank).join(" → ")}`;
    tip.replaceChildren(words, more);
    const [x, y] = place(k, i), canvas = canvases[k].getBoundingClientRect(), whole = box.getBoundingClientRect();
    const left = canvas.left - whole.left + x, top = canvas.top - whole.top + y;
    tip.style.left = `${Math.max(0, Math.min(left + 14, whole.width - tip.offsetWidth))}px`;
    tip.style.top = `${top + 14 + tip.offsetHeight > whole.height ? top - 14 - tip.offsetHeight : top + 14}px`;
  }
  function nearest(event, k) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      const [x, y] = place(k, i), far = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }
  canvases.forEach((canvas, k) => {
    const look = (event) => { const i = nearest(event, k); if (i !== marked || i < 0) tell(i, k); };
    canvas.addEventListener("pointermove", look);
    canvas.addEventListener("pointerdown", look);
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tell(-1, k); });
  });
  find.hidden = false;
  typed.addEventListener("input", () => {
    const words = typed.value.trim().toLowerCase();
    ringed = words ? known.texts.flatMap((text, i) => (text.toLowerCase().includes(words) ? [i] : [])) : [];
    at = -1;
    said.textContent = words ? `${ringed.length} found${ringed.length ? "; Enter reads one after the other" : ""}` : "";
    tell(-1, 0);
  });
  typed.addEventListener("keydown", (event) => {
    if (event.key === "Escape") tell(-1, 0);
    if (event.key !== "Enter" || !ringed.length) return;
    event.preventDefault();
    at = (at + 1) % ringed.length;
    tell(ringed[at], 0);
  });
  new ResizeObserver(draw).observe(box);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
});

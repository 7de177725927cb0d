// A small 3D view of Cα traces on a canvas, without any library.
// It reads the element "traces" (JSON, see viewer.py), sets data-ready on the root element once it has drawn, and
// data-error when anything on the page throws.
"use strict";
window.addEventListener("error", (e) => { document.documentElement.dataset.error = e.message; });
const traces = JSON.parse(document.getElementById("traces").textContent);
const canvas = document.getElementById("view"), pen = canvas.getContext("2d");
const slider = document.getElementById("frame"), all = document.getElementById("all");
let turn = [[1, 0, 0], [0, 1, 0], [0, 0, 1]], size = 1, timer = null;
for (const run of traces.runs) for (const f of run.frames) for (const x of f) size = Math.max(size, Math.abs(x));
let zoom = 0.44 * Math.min(canvas.width, canvas.height) / size;
slider.max = Math.max(...traces.runs.map((r) => r.frames.length)) - 1;

function rotate(axis, angle) {
  const c = Math.cos(angle), s = Math.sin(angle);
  const m = axis === "x" ? [[1, 0, 0], [0, c, -s], [0, s, c]] : [[c, 0, s], [0, 1, 0], [-s, 0, c]];
  turn = m.map((row) => [0, 1, 2].map((k) => row[0] * turn[0][k] + row[1] * turn[1][k] + row[2] * turn[2][k]));
}

function draw() {
  const segments = [], number = Number(slider.value);
  for (const run of traces.runs) {
    if (!run.shown) continue;
    run.frames.forEach((f, index) => {
      const chosen = index === Math.min(number, run.frames.length - 1);
      if (!chosen && !all.checked) return;
      const points = [];
      for (let i = 0; i < f.length; i += 3) {
        points.push(turn.map((row) => row[0] * f[i] + row[1] * f[i + 1] + row[2] * f[i + 2]));
      }
      for (let i = 0; i + 1 < points.length; i++) {
        if (traces.bonded[i]) segments.push([points[i], points[i + 1], run.color, chosen]);
      }
    });
  }
  segments.sort((a, b) => a[0][2] + a[1][2] - b[0][2] - b[1][2]);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.lineCap = "round";
  for (const [a, b, color, chosen] of segments) {
    const depth = (a[2] + b[2]) / (4 * size) + 0.5;
    pen.globalAlpha = chosen ? 0.45 + 0.55 * depth : 0.06 + 0.2 * depth;
    pen.strokeStyle = color;
    pen.lineWidth = (chosen ? 5 : 1.6) * (0.6 + 0.6 * depth);
    pen.beginPath();
    pen.moveTo(canvas.width / 2 + zoom * a[0], canvas.height / 2 - zoom * a[1]);
    pen.lineTo(canvas.width / 2 + zoom * b[0], canvas.height / 2 - zoom * b[1]);
    pen.stroke();
  }
  pen.globalAlpha = 1;
}

for (const run of traces.runs) {
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.checked = run.shown;
  box.onchange = () => { run.shown = box.checked; draw(); };
  label.style.color = run.color;
  label.append(box, " " + run.label);
  document.getElementById("runs").append(label);
}
canvas.onpointerdown = (e) => canvas.setPointerCapture(e.pointerId);
canvas.onpointermove = (e) => {
  if (!e.buttons) return;
  rotate("y", e.movementX / 120);
  rotate("x", e.movementY / 120);
  draw();
};
canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom *= Math.exp(-e.deltaY / 600); draw(); });
slider.oninput = all.onchange = draw;
document.getElementById("play").onclick = (e) => {
  if (timer) { clearInterval(timer); timer = null; e.target.textContent = "play"; return; }
  e.target.textContent = "stop";
  all.checked = false;
  timer = setInterval(() => { slider.value = (Number(slider.value) + 1) % (Number(slider.max) + 1); draw(); }, 150);
};
rotate("x", 0.35);
rotate("y", 0.5);
draw();
document.documentElement.dataset.ready = "yes";

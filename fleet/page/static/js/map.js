// The map: Leaflet with a grid of degrees and a scale, and the operator's own tiles where there are any. Nothing is asked of
// another host otherwise.

/* global L */

export function makeMap(node, settings, label) {
  const map = L.map(node, { zoomControl: false, attributionControl: Boolean(settings.tiles), zoomSnap: 0.5, worldCopyJump: true, zoomAnimation: false });
  node.setAttribute("role", "application");
  node.setAttribute("aria-label", label);
  map.setView([30, 10], 2);
  L.control.zoom({ position: "bottomright" }).addTo(map);
  L.control.scale({ imperial: false }).addTo(map);
  if (settings.tiles) {
    map.attributionControl.setPrefix(false);
    L.tileLayer(settings.tiles, { attribution: escape(settings.credit), maxZoom: 19 }).addTo(map);
  } else {
    graticule(map);
  }
  const resized = new ResizeObserver(() => map.invalidateSize({ animate: false }));
  resized.observe(node);
  map.on("unload", () => resized.disconnect());
  return map;
}

// Leaflet takes attributions as markup.
function escape(text) {
  const node = document.createElement("i");
  node.textContent = text;
  return node.innerHTML;
}

const steps = [45, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];

// graticule draws lines of latitude and longitude, four or so across what is seen.
function graticule(map) {
  const layer = L.layerGroup().addTo(map);
  const pane = map.createPane("graticule");
  pane.style.zIndex = 250;
  const renderer = L.svg({ pane: "graticule" });
  const draw = () => {
    layer.clearLayers();
    const seen = map.getBounds();
    const south = Math.max(seen.getSouth(), -85), north = Math.min(seen.getNorth(), 85);
    const step = steps.find((s) => s <= (seen.getEast() - seen.getWest()) / 4) ?? steps.at(-1);
    const digits = step >= 1 ? 0 : Math.ceil(-Math.log10(step));
    const line = (points) => L.polyline(points, { className: "graticule", interactive: false, renderer }).addTo(layer);
    const write = (at, text, anchor) => L.marker(at, { interactive: false, keyboard: false, pane: "graticule",
      icon: L.divIcon({ className: "degree", html: text, iconSize: [0, 0], iconAnchor: anchor }) }).addTo(layer);
    for (let lon = Math.ceil(seen.getWest() / step) * step; lon <= seen.getEast(); lon += step) {
      line([[south, lon], [north, lon]]);
      const shown = ((lon + 540) % 360) - 180;
      write([north, lon], `${Math.abs(shown).toFixed(digits)}° ${shown < 0 ? "W" : "E"}`, [-4, -2]);
    }
    for (let lat = Math.ceil(south / step) * step; lat <= north; lat += step) {
      line([[lat, seen.getWest()], [lat, seen.getEast()]]);
      write([lat, seen.getEast()], `${Math.abs(lat).toFixed(digits)}° ${lat < 0 ? "S" : "N"}`, [58, 16]);
    }
  };
  map.on("moveend zoomend resize", draw);
  draw();
}

// fleetLayer keeps a dot for each vehicle.
export function fleetLayer(map, onOpen) {
  const dots = new Map();
  let fitted = false;
  return {
    put(d, words) {
      const id = `${d.tenant}/${d.device}`;
      let dot = dots.get(id);
      if (!d.position) { dot?.remove(); dots.delete(id); return; }
      const at = [d.position.latitude, d.position.longitude];
      const style = `vehicle ${d.state}${words ? " trouble" : ""}`;
      if (dot && dot.options.className !== style) { dot.remove(); dot = undefined; }
      if (!dot) {
        dot = L.circleMarker(at, { radius: 8, className: style }).addTo(map).on("click", () => onOpen(d));
        dot.bindTooltip("", { direction: "top" });
        dots.set(id, dot);
      }
      dot.setLatLng(at);
      const text = document.createElement("span");
      text.textContent = `${d.device} · ${d.state}${words ? ` · ${words}` : ""}`;
      dot.setTooltipContent(text);
    },
    keep(ids) { for (const [id, dot] of dots) if (!ids.has(id)) { dot.remove(); dots.delete(id); } },
    fit(again) {
      if (dots.size === 0 || (fitted && !again)) return;
      fitted = true;
      map.fitBounds(L.latLngBounds([...dots.values()].map((dot) => dot.getLatLng())).pad(0.15), { maxZoom: 15, animate: false });
    },
  };
}

// drawTrack draws what the API answers as a track, a line for each stretch, and returns the layer.
export function drawTrack(map, track) {
  const layer = L.layerGroup().addTo(map);
  const begins = [0, ...track.breaks, track.t.length];
  for (let i = 0; i + 1 < begins.length; i++) {
    const points = [];
    let turn = 0, before = null;
    for (let j = begins[i]; j < begins[i + 1]; j++) { // across the date line the short way
      if (before !== null && Math.abs(track.lon[j] - before) > 180) turn += track.lon[j] < before ? 360 : -360;
      before = track.lon[j];
      points.push([track.lat[j], track.lon[j] + turn]);
    }
    L.polyline(points, { className: "track", interactive: false }).addTo(layer);
  }
  if (track.t.length) L.circleMarker([track.lat[0], track.lon[0]], { radius: 5, className: "start" }).bindTooltip("start").addTo(layer);
  return layer;
}

export function fitTrack(map, track) {
  if (track.t.length) map.fitBounds(L.latLngBounds(track.lat.map((lat, i) => [lat, track.lon[i]])).pad(0.1), { maxZoom: 16, animate: false });
}

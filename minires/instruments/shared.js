/* Every page: light or dark, kept from page to page; code unfolded for the printer. */
"use strict";

const THEMES = ["", "light", "dark"];

function keptTheme() {
  try { return localStorage.getItem("minires-theme") || ""; } catch { return ""; }  // a browser may refuse
}

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("minires-theme", name); } catch { /* then for this page alone */ }
}

setTheme(keptTheme());

addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const show = () => {
    const name = document.documentElement.dataset.theme || "";
    button.textContent = { "": "Auto", light: "Light", dark: "Dark" }[name];
    button.setAttribute("aria-label", `Colours: ${name || "as the system"}`);
    dispatchEvent(new Event("theme"));
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "") + 1) % THEMES.length]);
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme")));
  show();
});

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));

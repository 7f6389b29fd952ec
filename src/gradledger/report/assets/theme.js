"use strict";
// Before anything is painted: the theme that was chosen for this page, else the system's.
(() => {
  let chosen = null;
  try { chosen = sessionStorage.getItem(`gradledger:${location.pathname}:theme`); } catch { /* storage may be off */ }
  document.documentElement.dataset.theme = chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
})();

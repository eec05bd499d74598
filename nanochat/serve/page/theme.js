// Light or dark before the first paint, from what was chosen earlier; a plain script, as a module comes too late.
// Promises: without a choice, or without storage, the system's preference decides. Not here: the switch (panel.js).

(() => {
  try {
    const { theme } = JSON.parse(localStorage.getItem("nanochat.settings") ?? "{}");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // storage is closed to the page, or holds what is not ours: as the system has it
  }
})();

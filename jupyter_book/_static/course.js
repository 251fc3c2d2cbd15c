// Where require.js finds the widget manager: on this site, in _static/vendor.
const vendor = `${document.documentElement.dataset.content_root}_static/vendor`;
window.require = {
  paths: {
    "@jupyter-widgets": `${vendor}/html-manager`,
    "@jupyter-widgets/html-manager/dist": `${vendor}/html-manager`,
  },
};

// The theme's icon script swaps <i> for <svg> as the page loads. It must not go on to do so in
// widgets, which are drawn later: a Play button that misses its <i> throws, and the frame stays.
window.FontAwesomeConfig = { observeMutations: false };

// The widget manager asks MathJax 2 to typeset labels; the book loads MathJax 3.
document.addEventListener("DOMContentLoaded", () => {
  const mathjax = window.MathJax;
  if (!mathjax) return;
  const typeset = ([, , element]) =>
    mathjax.startup.promise.then(() => mathjax.typesetPromise([element]));
  mathjax.Hub = { Queue: typeset };
});

// What a screen reader says of a control must contain what is written on it; and the entries of
// a list, such as the references, are list items.
function mendTheme() {
  for (const entry of document.querySelectorAll("[role=list] > [role=doc-biblioentry]")) {
    entry.role = "listitem";
  }
  for (const named of document.querySelectorAll(".search-button-field, details.hide > summary")) {
    named.removeAttribute("aria-label");
  }
  for (const button of document.querySelectorAll(".theme-switch-button")) {
    button.ariaLabel = "Color mode: Light, Dark, System Settings";
  }
}

// The controls of a widget come without names.
function nameWidgetControls(root) {
  for (const slider of root.querySelectorAll(".widget-slider")) {
    const label = slider.querySelector(".widget-label").textContent;
    for (const handle of slider.querySelectorAll("[role=slider]")) handle.ariaLabel = label;
  }
  for (const player of root.querySelectorAll(".widget-play")) {
    ["Play or pause", "Back to the start", "Repeat"].forEach((name, k) => {
      const button = player.querySelectorAll("button")[k];
      if (button) button.ariaLabel = button.title = name;
    });
  }
}

window.addEventListener("load", () => {
  mendTheme();
  for (const output of document.querySelectorAll(".cell_output")) {
    const watcher = new MutationObserver(() => nameWidgetControls(output));
    watcher.observe(output, { childList: true, subtree: true });
  }
});

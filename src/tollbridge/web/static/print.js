// A button that prints the page: pages hold no scripts of their own.
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});

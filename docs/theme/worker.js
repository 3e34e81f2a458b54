// Search runs in a worker, which browsers refuse to pages that are opened from a folder. There, a hidden frame of
// the page does a worker's job: it loads the script, and messages are handed over as events. It would hold the
// page up while it reads the index, so it begins when somebody turns to the search.
if (location.protocol === "file:") {
  const wanted = new Promise((resolve) => {
    document.addEventListener("focusin", ({ target }) => target.matches(".md-search__input") && resolve());
  });

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.scope = wanted.then(() => this.load(url));
    }

    load(url) {
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.appendChild(frame);
      const scope = frame.contentWindow;
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      const script = scope.document.createElement("script");
      script.src = url;
      scope.document.documentElement.appendChild(script);
      return new Promise((resolve) => (script.onload = () => resolve(scope)));
    }

    postMessage(data) {
      this.scope.then((scope) => scope.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}

// The one store of state. Views read it and are called once per frame after a change; only these functions change it.

/** @typedef {ReturnType<typeof createStore>} Store */
/** @typedef {(state: AppState, changed: Set<string>) => void} Subscriber */

/** @param {Route} route @returns {AppState} */
export function initialState(route) {
  return {
    route, runs: null, trace: null, tree: null, span: null, messages: null, open: new Map(),
    error: "", live: "off", help: false, tick: 0, clockMs: 0,
  };
}

/**
 * @param {AppState} initial
 * @param {(run: () => void) => void} [schedule] When subscribers run; tests call them at once.
 */
export function createStore(initial, schedule = (run) => requestAnimationFrame(run)) {
  const state = initial;
  /** @type {Set<Subscriber>} */
  const subscribers = new Set();
  /** @type {Set<string>} */
  let changed = new Set();
  let isScheduled = false;

  function run() {
    isScheduled = false;
    const keys = changed;
    changed = new Set();
    for (const subscriber of [...subscribers]) subscriber(state, keys);
  }

  return {
    /** @returns {Readonly<AppState>} */
    get: () => state,
    /** @param {Partial<AppState>} patch */
    set(patch) {
      Object.assign(state, patch);
      for (const key of Object.keys(patch)) changed.add(key);
      if (!isScheduled) {
        isScheduled = true;
        schedule(run);
      }
    },
    /** @param {Subscriber} subscriber @returns {() => void} Ends the subscription. */
    subscribe(subscriber) {
      subscribers.add(subscriber);
      return () => subscribers.delete(subscriber);
    },
  };
}

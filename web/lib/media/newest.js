/**
 * Do one thing at a time, and the newest only: what comes meanwhile replaces what waits.
 *
 * @template T
 * @param {(item: T) => Promise<void>} work never rejects
 * @returns {(item: T) => void}
 */
export function newestOnly(work) {
  /** @type {{ item: T } | null} */
  let waiting = null;
  let busy = false;

  async function goOn() {
    busy = true;
    while (waiting) {
      const { item } = waiting;
      waiting = null;
      await work(item);
    }
    busy = false;
  }

  return (item) => {
    waiting = { item };
    if (!busy) void goOn();
  };
}

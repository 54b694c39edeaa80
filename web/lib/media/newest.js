/**
 * One at a time, newest wins: an item that arrives meanwhile replaces the waiting one.
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

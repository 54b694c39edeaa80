/** Records of runs in this browser's own database. Nothing leaves the browser. */

const NAME = "sidestream";
const RUNS = "runs";

/**
 * @typedef {object} Database
 * @property {() => Promise<any[]>} all
 * @property {(record: { id: string }) => Promise<unknown>} put
 * @property {(id: string) => Promise<unknown>} delete
 * @property {() => Promise<unknown>} clear
 */

/** @returns {Promise<Database>} rejects if the browser refuses one */
export async function openDatabase() {
  const opening = indexedDB.open(NAME, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(RUNS, { keyPath: "id" });
  const database = await done(opening);
  database.onversionchange = () => database.close();
  /** @param {IDBTransactionMode} mode */
  const runs = (mode) => database.transaction(RUNS, mode).objectStore(RUNS);
  // Async, since a database that the browser has closed throws.
  return {
    all: async () => done(runs("readonly").getAll()),
    put: async (record) => written(runs("readwrite").put(record)),
    delete: async (id) => written(runs("readwrite").delete(id)),
    clear: async () => written(runs("readwrite").clear()),
  };
}

/**
 * @template T
 * @param {IDBRequest<T>} request
 * @returns {Promise<T>}
 */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * Where there is no room the request succeeds, but its transaction is aborted.
 *
 * @param {IDBRequest} request
 */
function written(request) {
  const transaction = /** @type {IDBTransaction} */ (request.transaction);
  return new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
}

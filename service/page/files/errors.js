/** What the page can tell in words. */

/** Data that are not as they must be. */
export class InputError extends Error {}

/** A refusal of the service, or none that could be had. */
export class ServiceError extends Error {
  constructor(status, message, row = null) {
    super(message);
    this.status = status;
    this.row = row;
  }
}

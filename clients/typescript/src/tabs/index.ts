/**
 * One connection for all tabs of a site.
 *
 * @module
 */
export { SharedFoghornClient, type SharedFoghornOptions } from "./shared-client.js";

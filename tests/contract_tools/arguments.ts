// The command line of the scripts beside this file: where the API is, and who calls it.
declare const process: { argv: string[] };

export const [, , baseUrl = "", token = ""] = process.argv;

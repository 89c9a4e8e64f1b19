export default {
  tasks: {
    input: "openapi.json",
    output: {
      target: "orval/client.ts",
      client: "fetch",
      baseUrl: { runtime: "baseUrl", imports: [{ name: "baseUrl", importPath: "../arguments.js" }] },
    },
  },
};

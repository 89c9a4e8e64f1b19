// Starts Swagger UI on /docs. A file, because the page's Content-Security-Policy allows no inline script.
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  // A token lives as long as the page: it is not written to the browser's storage.
  persistAuthorization: false,
  // No badge from validator.swagger.io.
  validatorUrl: null,
});

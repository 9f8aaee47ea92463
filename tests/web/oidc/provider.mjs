// An OpenID Connect provider for tests: oidc-provider as it is, with two users and its own development log-in pages.
// PORT, REDIRECT: where it listens, and where it sends users back. Prints "ready".
import { Provider } from "oidc-provider";

const issuer = `http://127.0.0.1:${process.env.PORT}`;
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "tollbridge",
      client_secret: "a-secret-of-the-test",
      redirect_uris: [process.env.REDIRECT],
      token_endpoint_auth_method: "client_secret_post",
    },
  ],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["a key of the test"] },
  pkce: { required: () => true },
  // Any login name is a user; who is called unverified-… has an address that nobody verified.
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: !id.startsWith("unverified") }),
  }),
});
provider.listen(Number(process.env.PORT), "127.0.0.1", () => console.log("ready"));

//! Why a token is not accepted, in Envoy's words.

macro_rules! refusals {
    ($($name:ident = ($code:literal, $text:literal);)*) => {
        /// See the module.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Refusal { $($name,)* }

        impl Refusal {
            /// What clients are told.
            pub fn text(self) -> &'static str {
                match self { $(Refusal::$name => $text,)* }
            }

            /// Its number in metadata.
            pub fn code(self) -> u32 {
                match self { $(Refusal::$name => $code,)* }
            }

            /// Why, in logs.
            pub fn details(self) -> String {
                let word = self.text().replace(' ', "_");
                format!("jwt_authn_access_denied{{{word}}}")
            }
        }
    };
}

refusals! {
    Missing = (1, "Jwt is missing");
    NotYetValid = (2, "Jwt not yet valid");
    Expired = (3, "Jwt is expired");
    BadFormat = (4, "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections");
    HeaderBase64 = (5, "Jwt header is an invalid Base64url encoded");
    HeaderJson = (6, "Jwt header is an invalid JSON");
    HeaderAlg = (7, "Jwt header [alg] field is required and must be a string");
    HeaderUnknownAlg = (8, "Jwt header [alg] is not supported");
    HeaderKid = (9, "Jwt header [kid] field is not a string");
    PayloadBase64 = (10, "Jwt payload is an invalid Base64url encoded");
    PayloadJson = (11, "Jwt payload is an invalid JSON");
    PayloadIss = (12, "Jwt payload [iss] field is not a string");
    PayloadSub = (13, "Jwt payload [sub] field is not a string");
    PayloadIat = (14, "Jwt payload [iat] field is not an integer");
    PayloadIatRange = (15, "Jwt payload [iat] field is not a positive 64 bit integer");
    PayloadNbf = (16, "Jwt payload [nbf] field is not an integer");
    PayloadNbfRange = (17, "Jwt payload [nbf] field is not a positive 64 bit integer");
    PayloadExp = (18, "Jwt payload [exp] field is not an integer");
    PayloadExpRange = (19, "Jwt payload [exp] field is not a positive 64 bit integer");
    PayloadJti = (20, "Jwt payload [jti] field is not a string");
    PayloadAud = (21, "Jwt payload [aud] field is not a string or string list");
    SignatureBase64 = (22, "Jwt signature is an invalid Base64url encoded");
    Ed25519Length = (23, "Jwt ED25519 signature is wrong length");
    UnknownIssuer = (24, "Jwt issuer is not configured");
    Audience = (25, "Audiences in Jwt are not allowed");
    Verification = (26, "Jwt verification fails");
    NoValidKeys = (31, "Jwks doesn't have any valid public key");
    NoSuchKey = (32, "Jwks doesn't have key to match kid or alg from Jwt");
    Fetch = (40, "Jwks remote fetch is failed");
}

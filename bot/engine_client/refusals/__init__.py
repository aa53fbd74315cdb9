"""Why a server turned a request down: what its answer says, whatever its shape and wording. Sends nothing."""

# Completion of nanogpt-kit for fish.

function __nanogpt_kit_completion
    set -l program (commandline -opc)[1]
    set -lx _NANOGPT_KIT_COMPLETE fish_complete
    set -lx COMP_LINE (commandline -cp | string collect)
    command $program </dev/null 2>/dev/null
end

complete --command nanogpt-kit --no-files --keep-order --arguments "(__nanogpt_kit_completion)"

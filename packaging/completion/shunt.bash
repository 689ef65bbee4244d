# bash completion for shunt(1)

_shunt() {
    local cur prev words cword
    _init_completion -s || return

    local commands='status check list why monitor config policy ca on off reload bench cleanup version'
    local states='unpaired spilled fast stopped'
    local events='skipped enrolled paired left spill latch stopped closed verify forbidden denied punted steered'

    case $prev in
        -c | --config)
            _filedir yaml
            return
            ;;
        --socket)
            _filedir
            return
            ;;
        -o | --output)
            COMPREPLY=($(compgen -W 'table json' -- "$cur"))
            return
            ;;
        --pid)
            COMPREPLY=($(compgen -W "$(command ps axo pid=)" -- "$cur"))
            return
            ;;
        --state)
            COMPREPLY=($(compgen -W "$states" -- "$cur"))
            return
            ;;
        --event)
            COMPREPLY=($(compgen -W "$events" -- "$cur"))
            return
            ;;
        --timeout)
            COMPREPLY=($(compgen -W '5s 10s 30s 1m' -- "$cur"))
            return
            ;;
        -f | --file)
            _filedir
            return
            ;;
        --ca | --out)
            _filedir -d
            return
            ;;
        --days | --port | --program | --reason | --limit | --host | -H | --header | --command | --key)
            return
            ;;
    esac

    local command='' i
    for ((i = 1; i < cword; i++)); do
        case ${words[i]} in
            -c | --config | --socket | -o | --output) ((i++)) ;;
            -*) ;;
            *)
                command=${words[i]}
                break
                ;;
        esac
    done

    local options='--config --socket --output --help'
    case $command in
        '') options+=" --version" ;;
        list) options+=' --pid --port --program --state --reason --limit' ;;
        monitor) options+=' --pid --port --program --event --reason' ;;
        off | cleanup) options+=' --timeout' ;;
        ca) options+=' --ca --out --days' ;;
        bench) options='--cells --variants --rounds --seconds --seed --quick --output --out --html --list --help' ;;
        policy) options+=' --file --host --header --command --key --replace' ;;
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ -z $command ]]; then
        COMPREPLY=($(compgen -W "$commands" -- "$cur"))
    elif [[ $command == config ]]; then
        if [[ $prev == validate ]]; then
            _filedir yaml
        else
            COMPREPLY=($(compgen -W 'validate' -- "$cur"))
        fi
    elif [[ $command == policy ]]; then
        if [[ $prev == policy ]]; then
            COMPREPLY=($(compgen -W 'validate explain trace import get' -- "$cur"))
        else
            _filedir
        fi
    elif [[ $command == bench ]]; then
        [[ $prev == bench ]] && COMPREPLY=($(compgen -W 'tls' -- "$cur"))
    elif [[ $command == ca ]]; then
        [[ $prev == ca ]] && COMPREPLY=($(compgen -W 'init issue' -- "$cur"))
    elif [[ $command == why ]]; then
        COMPREPLY=($(compgen -W "$(command ps axo pid=)" -- "$cur"))
    fi
} && complete -F _shunt shunt

# and for shunt-proxy(8)
_shunt_proxy() {
    local cur prev words cword
    _init_completion -s || return

    case $prev in
        -c | --config) _filedir yaml ;;
        *) COMPREPLY=($(compgen -W '--config --check --version --help' -- "$cur")) ;;
    esac
} && complete -F _shunt_proxy shunt-proxy

# and for shunt-gateway(8)
_shunt_gateway() {
    local cur prev words cword
    _init_completion -s || return

    case $prev in
        -c | --config) _filedir yaml ;;
        *) COMPREPLY=($(compgen -W '--config --check --status --version --help' -- "$cur")) ;;
    esac
} && complete -F _shunt_gateway shunt-gateway
